"""Lua scripts that the operator and the CLI run. The pods also run some of these scripts. In all scripts, KEYS[1] is
the stream.

Several of these scripts only read. The reading scripts replace commands whose replies can have any size. A stream can
have any number of groups, consumers and entries, and a name or a value can have up to 512 MB. The reading scripts
return only numbers, ids and a limited number of short names.
"""

MAX_CONSUMERS = 10_000
"""Maximum number of consumers of a group that a pod, a script or a command lists. XINFO CONSUMERS has no limit of its
own: for 10,000 consumers, the command takes 10 ms and a script takes 60 ms; for a million, a script takes 15 s."""

SCRIPT_FUNCTIONS = f"""
local function dictionary(flat)
  local values = {{}}
  for i = 1, #flat, 2 do values[flat[i]] = flat[i + 1] end
  return values
end
local function call(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then  -- Redis 6.2 adds a prefix to each error
    local words = reply.err:gsub('^@user_script: ?%d+: %-?', '')
    return {{err = words}}, true
  end
  return reply, false
end
local function find_group(stream, name)
  local groups, failed = call('XINFO', 'GROUPS', stream)
  if failed then return groups, true end
  for _, line in ipairs(groups) do
    local info = dictionary(line)
    if info.name == name then return info, false end
  end
  return false, false
end
local function too_many_consumers(group)
  local found = 'ERR found ' .. group.consumers .. ' consumers in the group'
  return {{err = found .. ', expected at most {MAX_CONSUMERS}; delete unused consumers'}}
end
local function list_consumers(stream, name)
  local group, failed = find_group(stream, name)
  if failed then return group, true end
  if group and group.consumers > {MAX_CONSUMERS} then return too_many_consumers(group), true end
  return call('XINFO', 'CONSUMERS', stream, name)
end
"""
"""First part of the scripts. `call` and the functions after it return a reply, and true if the reply is an error.
`find_group` returns false if the group does not exist. `list_consumers` returns an error above MAX_CONSUMERS."""

PROBE_GROUP = f"""{SCRIPT_FUNCTIONS}
local info, failed = find_group(KEYS[1], ARGV[1])
local group, length, pending = info, call('XLEN', KEYS[1]), false
if info and not failed then
  group = {{info.pending, info.consumers, info['last-delivered-id'], info['entries-read'] or -1, info.lag or -1}}
end
if info and not failed and info.consumers > {MAX_CONSUMERS} then
  local entries, pending_failed = call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1)
  pending = pending_failed and entries or {{entries[1] and entries[1][1] or false, info.pending, ''}}
elseif info and not failed then
  local summary, pending_failed = call('XPENDING', KEYS[1], ARGV[1])
  pending = summary
  if not pending_failed then
    local owned, names = 0, {{}}
    for _, line in ipairs(summary[4] or {{}}) do
      local name, count = line[1], tonumber(line[2])
      if name ~= ARGV[2] then
        owned = owned + count
        if #names < 2 * ARGV[3] and #name <= 63 and name:find('^[a-z0-9.-]+$') then
          names[#names + 1] = name
          names[#names + 1] = line[2]
        end
      end
    end
    pending = {{summary[2], owned, table.concat(names, ' ')}}
  end
end
return {{group, length, pending}}
"""
"""Lua script that returns the state of the group ARGV[1] in three parts: group, stream and pending entries. If the
command for a part fails, the part is an error.

The first part contains the group's number of pending entries, number of consumers, last delivered id, number of entries
read, and lag. An unknown number is -1. The first part is nil if the group does not exist.

The second part is the length of the stream.

The third part contains the smallest pending id, the number of entries that consumers other than ARGV[2] own, and a text
with consumer names. Each name is followed by the consumer's number of pending entries. The text contains at most
ARGV[3] consumers that are named like pods. The third part is nil if the first part is not a group. If the group has
more than MAX_CONSUMERS consumers, the number contains all pending entries, and the text is empty.
"""

FIND_GROUP = f"""{SCRIPT_FUNCTIONS}
local group, failed = find_group(KEYS[1], ARGV[1])
if failed or not group then return group end
return {{group['last-delivered-id'], group.consumers}}
"""
"""Lua script that returns the last delivered id and the number of consumers of the group ARGV[1], or nil if the group
does not exist."""

LIST_GROUPS = f"""{SCRIPT_FUNCTIONS}
local groups, failed = call('XINFO', 'GROUPS', KEYS[1])
if failed then return groups end
local exists, names = 0, {{}}
for _, line in ipairs(groups) do
  local name = dictionary(line).name
  if name == ARGV[1] then exists = 1 end
  if #names < tonumber(ARGV[2]) then names[#names + 1] = name:sub(1, 256) end
end
return {{exists, #groups, names}}
"""
"""Lua script that returns 1 if the group ARGV[1] exists, the number of groups, and the first 256 bytes of the names of
at most ARGV[2] groups."""

LAST_GENERATED_ID = f"""{SCRIPT_FUNCTIONS}
local info, failed = call('XINFO', 'STREAM', KEYS[1])
if failed then return info end
return dictionary(info)['last-generated-id']
"""
"""Lua script that returns the last id that the stream has generated."""

COUNT_AFTER = """
local count, limit, page, bytes, after = 0, tonumber(ARGV[2]), 1, 0, ARGV[1]
while count < limit and bytes < 16777216 do
  local entries = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', math.min(page, limit - count))
  count = count + #entries
  if #entries < page then return count end
  after = entries[#entries][1]
  local size = 1
  for _, entry in ipairs(entries) do
    for _, part in ipairs(entry[2]) do size = size + #part end
  end
  bytes = bytes + size
  page = math.max(1, math.min(2 * page, 1000, math.floor(1048576 * #entries / size)))
end
return limit
"""
"""Lua script that counts the entries after the id ARGV[1], at most ARGV[2] entries. The reply contains only the number
of entries. The reply is ARGV[2] if more entries may follow.

XRANGE copies the values into the script. The script therefore reads about 1 MB at a time, and stops after 16 MB."""

LIST_CONSUMERS = f"""{SCRIPT_FUNCTIONS}
local consumers, failed = list_consumers(KEYS[1], ARGV[1])
if failed then return consumers end
local lines = {{}}
for _, line in ipairs(consumers) do
  local info = dictionary(line)
  lines[#lines + 1] = {{info.name:sub(1, 256), info.pending, info.idle}}
end
table.sort(lines, function(a, b) return a[2] > b[2] end)
return {{unpack(lines, 1, math.min(#lines, tonumber(ARGV[2])))}}
"""
"""Lua script that returns at most ARGV[2] consumers of the group ARGV[1]. The consumers with the most pending entries
come first. Each line contains the first 256 bytes of the name, the number of pending entries and the idle time in
milliseconds."""

LIST_PENDING = f"""{SCRIPT_FUNCTIONS}
local pending, failed = call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[2])
if failed then return pending end
for _, line in ipairs(pending) do line[2] = line[2]:sub(1, 256) end
return pending
"""
"""Lua script that returns the ARGV[2] oldest pending entries of the group ARGV[1]. Each line contains the id, the first
256 bytes of the consumer's name, the idle time in milliseconds and the delivery count."""

DELETE_IDLE_CONSUMER = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return -1 end
for i = 2, #KEYS do redis.call('HDEL', KEYS[i], ARGV[2]) end
return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
"""
"""Lua script that deletes the consumer ARGV[2] of the group ARGV[1], and the consumer's fields in the hashes KEYS[2…].
Returns -1 and deletes nothing if the consumer has pending entries. The check and the deletion are one atomic step,
because XGROUP DELCONSUMER would delete pending entries too."""
