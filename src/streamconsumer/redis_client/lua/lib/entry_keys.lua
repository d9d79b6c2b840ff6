-- Keys and arguments with which each script about entries begins.
local stream, schedule, claimed, claimed_before, committed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, me = ARGV[1], ARGV[2]
