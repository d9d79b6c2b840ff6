-- `add` claims an entry with `claim`, and adds the entry to `entries`. `add` returns false and does not claim the entry
-- if the size of all entries would exceed `page_bytes`. The first entry is always added. If an entry is larger than
-- `entry_bytes`, `add` replaces each value by its size, but keeps the replay marks, and adds the size of the entry and
-- its number of fields to `entries`.
local function describe(fields)
  local last, room, described = #fields, MAX_NAMES_BYTES, {}
  if last > 6 and fields[last - 1] == 'streamconsumer.replayed-for' then last = last - 6 end
  for i = 1, last, 2 do
    local name = fields[i]:sub(1, MAX_NAME_BYTES)
    room = room - #name - NAME_OVERHEAD_BYTES
    if room < 0 then break end
    described[#described + 1] = name
    described[#described + 1] = tostring(#fields[i + 1])
  end
  for i = last + 1, #fields do described[#described + 1] = fields[i]:sub(1, MAX_NAME_BYTES) end
  return described
end
local total, entries = 0, {}
local function add(id, fields, deliveries, page_bytes, entry_bytes, claim)
  local bytes = 0
  for i = 1, #fields do bytes = bytes + #fields[i] end
  local size = bytes + VALUE_BYTES * #fields
  local is_readable = size <= entry_bytes
  if not is_readable then size = MAX_NAMES_BYTES end
  if #entries > 0 and total + size > page_bytes then return false end
  claim()
  total = total + size
  if is_readable then
    entries[#entries + 1] = {id, deliveries, fields}
  else
    entries[#entries + 1] = {id, deliveries, describe(fields), bytes, #fields / 2}
  end
  return true
end
