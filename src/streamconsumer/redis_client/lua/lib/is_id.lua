-- Returns true if a text is an entry id. Any program may write to the companion keys.
local function is_id(text)
  local function is_part(part) return #part < 20 or #part == 20 and part <= '18446744073709551615' end
  local milliseconds, sequence = (text or ''):match('^(%d+)%-(%d+)$')
  return milliseconds ~= nil and is_part(milliseconds) and is_part(sequence)
end
