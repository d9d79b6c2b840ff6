-- Converts a flat list of alternating names and values to a table.
local function dictionary(flat)
  local values = {}
  for i = 1, #flat, 2 do values[flat[i]] = flat[i + 1] end
  return values
end
