-- uses: dictionary, call, group_info, find_registration, now_milliseconds
-- Checks the consumers of the group ARGV[1] for the consumer ARGV[2]. KEYS: the stream, the registrations, the
-- announcements. ARGV[3…]: the idle time in milliseconds above which a consumer is silent, the maximum number of
-- consumers to list, the version of the registrations that the caller knows, and the idle time of the entries to search
-- or '', and 1 to announce the consumer.
--
-- Returns the server's time in milliseconds, the number of consumers, the number of pending entries, the number of
-- postponed entries, 1 if the consumers were listed, the version, and four lists: the silent consumers with pending
-- entries (name, idle time), the names of consumers with entries that were idle for the given time, and, after an
-- announcement or a change of the version, the registrations and the announcements. Names and values above
-- MAX_FIELD_BYTES are left out. A missing group is the error NOGROUP. A server that is out of memory rejects the
-- announcement.
--
-- In a group with more consumers than the maximum, the script examines the entries of the registered consumers instead
-- of listing all consumers. The cost of the script therefore does not grow with the names of other programs.
--
-- The script contains a write that changes nothing. If the script succeeds, the server therefore also accepts the
-- writes of other consumers, such as the renewals of their leases.
local group, me, silence, limit, version, idle, announces = unpack(ARGV)
local stream, registrations, members = KEYS[1], KEYS[2], KEYS[3]
redis.call('XACK', stream, group, '0-0')
local found, failed = group_info(stream, group)
if failed and not found.err:find('no such key') then return found end
if failed or not found then return redis.error_reply('NOGROUP the consumer group is missing') end
local info, now = found, now_milliseconds()
local is_listed, postponed, silent, owners, stale = info.consumers <= tonumber(limit), 0, {}, {}, {}
if info.pending > 0 and is_listed then
  for _, line in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local consumer = dictionary(line)
    if consumer.name == POSTPONED then
      postponed = consumer.pending
    elseif consumer.pending > 0 and #consumer.name <= MAX_FIELD_BYTES then
      owners[#owners + 1] = consumer.name
      if consumer.idle > tonumber(silence) then
        silent[#silent + 1] = {consumer.name, consumer.idle}
      end
    end
  end
end
local function idle_entry(name, milliseconds)
  return redis.call('XPENDING', stream, group, 'IDLE', milliseconds, '-', '+', 1, name)[1]
end
local function for_each(names, step, use)  -- at most MAX_SEARCHED names, beginning at another name each time
  local count = #names / step
  local first = redis.call('TIME')[2] % count
  for i = first, first + math.min(count, MAX_SEARCHED) - 1 do use(names[(i % count) * step + 1]) end
end
local function scan(key)
  local page, found = redis.call('HSCAN', key, 0, 'COUNT', MAX_SCANNED)[2], {}
  for i = 1, #page, 2 do
    if #page[i] <= MAX_FIELD_BYTES and #page[i + 1] <= MAX_FIELD_BYTES then
      found[#found + 1] = page[i]; found[#found + 1] = page[i + 1]
    end
  end
  return found
end
local function search(name)
  if idle_entry(name, idle) then stale[#stale + 1] = name end
end
if info.pending > 0 and not is_listed then
  postponed = #redis.call('XPENDING', stream, group, '-', '+', 1, POSTPONED)
  for_each(scan(registrations), 2, function(name)
    local entry = idle_entry(name, silence)
    if entry then silent[#silent + 1] = {name, entry[3]} end
  end)
  if idle ~= '' then for_each(scan(members), 2, search) end
elseif info.pending > 0 and idle ~= '' then
  for_each(owners, 1, search)
end
if announces == '1' then redis.pcall('HSET', members, me, math.floor(now / 1000)) end
local current = find_registration(registrations, '') or ''
local state = {now, info.consumers, info.pending, postponed, is_listed and 1 or 0, current, silent, stale}
if announces == '1' or current ~= version then
  state[9], state[10] = scan(registrations), scan(members)
end
return state
