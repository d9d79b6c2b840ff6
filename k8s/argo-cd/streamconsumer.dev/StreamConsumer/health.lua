-- Maps the conditions of a StreamConsumer to an Argo CD health status. Conditions of an older generation are ignored.
local health = {status = "Progressing", message = "Waiting for the operator to reconcile this generation"}
if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return health
end

local conditions = {}
for _, condition in ipairs(obj.status.conditions or {}) do
  conditions[condition.type] = condition
end

local function is_true(kind)
  return conditions[kind] ~= nil and conditions[kind].status == "True"
end

local ready = conditions["Ready"]
if ready == nil then
  return health
end
health.message = ready.reason
if ready.message ~= nil and ready.message ~= "" then
  health.message = health.message .. ": " .. ready.message
end

if is_true("Stalled") then
  health.status = "Degraded"
elseif is_true("Suspended") then
  health.status = "Suspended"
elseif is_true("Reconciling") then
  health.status = "Progressing"
elseif is_true("Ready") then
  health.status = "Healthy"
else
  health.status = "Degraded"
end
return health
