-- Returns the registration of a consumer, or false. A longer text than MAX_FIELD_BYTES is not a registration.
local function find_registration(registrations, consumer)
  local found = redis.call('HGET', registrations, consumer)
  return found and #found <= MAX_FIELD_BYTES and found
end
