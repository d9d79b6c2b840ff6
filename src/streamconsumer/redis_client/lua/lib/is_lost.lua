-- Returns true if a consumer has lost an entry that has this state for the consumer.
local function is_lost(state) return state == 'peer' or state == 'postponed' end
