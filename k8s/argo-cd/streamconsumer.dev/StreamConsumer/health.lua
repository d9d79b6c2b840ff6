-- How Argo CD sees a StreamConsumer. What the operator said of an older spec does not count.
local hs = {status = "Progressing", message = "Waiting for the operator to look at this spec"}
if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return hs
end

local found = {}
for _, condition in ipairs(obj.status.conditions or {}) do
  found[condition.type] = condition
end

local function holds(kind)
  return found[kind] ~= nil and found[kind].status == "True"
end

if found["Ready"] == nil then
  return hs
end
hs.message = found["Ready"].reason
if found["Ready"].message ~= nil and found["Ready"].message ~= "" then
  hs.message = hs.message .. ": " .. found["Ready"].message
end

if holds("Stalled") then
  hs.status = "Degraded"
elseif holds("Suspended") then
  hs.status = "Suspended"
elseif holds("Reconciling") then
  hs.status = "Progressing"
elseif holds("Ready") then
  hs.status = "Healthy"
else
  hs.status = "Degraded"
end
return hs
