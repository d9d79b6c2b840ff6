-- Returns true if the entry id `a` is smaller than the entry id `b`. The parts of an id exceed the precision of a number.
local function id_before(a, b)
  local am, as = a:match('^(%d+)-(%d+)$')
  local bm, bs = b:match('^(%d+)-(%d+)$')
  if am == bm then am, bm = as, bs end
  if #am ~= #bm then return #am < #bm end
  return am < bm
end
