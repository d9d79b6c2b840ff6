-- Returns true if a consumer must not handle an entry that has this state for the consumer.
local function is_lost(state) return state == 'peer' or state == 'postponed' or state == 'settled' end
