"""The scripts that keep records and groups on a Redis server.

A record lives under its own key, as ``=`` and its sealed bytes. One with a group lives in a hash of
the group instead, and its key holds ``@`` and the name of that hash. A group is two hashes:

- the *group*, under the label's key: ``m`` names this life of the label, ``s`` and ``f`` count
  successes and failures, ``n`` is the last sequence number given out;
- the *members*, under the group's key, a colon and ``m``: sealed bytes by id, and under an empty
  id the group's key. To drop the label is to delete the first hash and that one field.

Counts follow from the state that is replaced, in the script that replaces it. Both hashes end at
the same time, which each save moves on and none moves back.

An id is what follows the last colon of its record's key; it is said only where a project's own key
function hides it. Each byte of a save counts: groups are large.
"""

from __future__ import annotations

from typing import Final

from async_cache.results.records import SUCCESS_RANK
from async_cache.stores.scripts import Script

__all__ = ["DELETE", "FORGET", "GET", "PURGE", "RESERVE", "SAVE", "SCAN"]

# Bytes of MAC and rank: what tells one writing of a record from another.
HEAD: Final = 20

_COMMON: Final = f"""
local function id_of(key, said) return said or string.match(key, '[^:]+$') end
local function rank_of(sealed)
  if #sealed < {HEAD} then return -1 end
  return (struct.unpack('>I4', sealed, 17))
end
local function outcome(rank)
  if rank == {SUCCESS_RANK} then return 's' end
  if rank % 8 == 3 then return 'f' end
end
local function locate(key, id)
  local at = redis.call('GET', key)
  if not at then return nil end
  local rest = string.sub(at, 2)
  if string.sub(at, 1, 1) ~= '@' then return rest end
  local found = redis.call('HMGET', rest, id, '')
  return found[1], rest, found[2]
end
local function members_of(group)
  local life = redis.call('HGET', group, 'm')
  return life and group .. ':' .. life
end
local function open_group(group)
  local members = members_of(group)
  if members then return members end
  local now = redis.call('TIME')
  local life = now[1] .. '.' .. now[2]
  redis.call('HSET', group, 'm', life)
  return group .. ':' .. life
end
local function live_on(group, members, life)
  local left = redis.call('PTTL', group)
  if left < life then
    redis.call('PEXPIRE', group, life)
    redis.call('PEXPIRE', members, life)
  elseif redis.call('PTTL', members) ~= left then
    redis.call('PEXPIRE', members, left)
  end
end
local function leave(members, id, label, sealed)
  redis.call('HDEL', members, id)
  if not label or members_of(label) ~= members then return end
  local was = outcome(rank_of(sealed))
  if was then redis.call('HINCRBY', label, was, -1) end
end
"""

# KEYS: record, group (or the record again), key of the name when there is one
# ARGV: ms, sealed bytes, the head of those they replace, the id
_SAVE: Final = f"""
local id, life, sealed = id_of(KEYS[1], ARGV[4]), tonumber(ARGV[1]), ARGV[2]
local group, grouped, members = KEYS[2], KEYS[2] ~= KEYS[1], nil
local old, from, label = locate(KEYS[1], id)
if grouped then
  members = members_of(group)
  if members and redis.call('EXISTS', members) == 0 then
    -- None has come yet, or they were evicted: then what was counted is gone.
    redis.call('HDEL', group, 's', 'f')
  end
  if members and not old then
    -- The members of a group may outlive the keys that lead to them.
    old, from, label = redis.call('HGET', members, id), members, group
  end
end
local rank, was = rank_of(sealed), nil
if old then
  local old_rank, head = rank_of(old), string.sub(old, 1, {HEAD})
  if old_rank > rank then return 0 end
  if head ~= ARGV[3] and head ~= string.sub(sealed, 1, {HEAD}) then
    return {{old, (from and not label) and 1 or 0}}
  end
  if from and from == members then
    was = outcome(old_rank)
  elseif from then
    leave(from, id, label, old)
  end
end
if grouped then
  members = open_group(group)
  redis.call('HSET', members, id, sealed, '', group)
  local is = outcome(rank)
  if is ~= was then
    if was then redis.call('HINCRBY', group, was, -1) end
    if is then redis.call('HINCRBY', group, is, 1) end
  end
  live_on(group, members, life)
  redis.call('SET', KEYS[1], '@' .. members, 'PX', life)
else
  redis.call('SET', KEYS[1], '=' .. sealed, 'PX', life)
end
if KEYS[3] then redis.call('SET', KEYS[3], id, 'PX', life) end
if outcome(rank) then
  -- Who may not publish may still save.
  redis.pcall('PUBLISH', KEYS[1], '')
  if KEYS[3] then redis.pcall('PUBLISH', KEYS[3], '') end
  if members then
    local counts = redis.call('HMGET', group, 's', 'f')
    redis.pcall('PUBLISH', group, (counts[1] or '0') .. ':' .. (counts[2] or '0'))
  end
end
return 1
"""

# KEYS: record. ARGV: the id
_GET: Final = """
local found, from, label = locate(KEYS[1], id_of(KEYS[1], ARGV[1]))
return {found or false, (from and not label) and 1 or 0}
"""

# KEYS: group. ARGV: members' hash, or nothing at first; cursor; about how many
_SCAN: Final = """
local members = ARGV[1] ~= '' and ARGV[1] or members_of(KEYS[1])
if not members then return false end
local page = redis.call('HSCAN', members, ARGV[2], 'COUNT', ARGV[3])
local answer = {members, page[1]}
for i = 1, #page[2], 2 do
  if page[2][i] ~= '' then answer[#answer + 1] = page[2][i + 1] end
end
return answer
"""

# KEYS: group. ARGV: how many, ms
_RESERVE: Final = """
local members = open_group(KEYS[1])
local last = redis.call('HINCRBY', KEYS[1], 'n', ARGV[1])
live_on(KEYS[1], members, tonumber(ARGV[2]))
return last
"""

# KEYS: group
_DELETE: Final = """
local members = members_of(KEYS[1])
redis.call('DEL', KEYS[1])
if not members then return {'', 0} end
redis.call('HDEL', members, '')
return {members, redis.call('HLEN', members)}
"""

# KEYS: members' hash. ARGV: what stands before an id in its record's key; cursor; about how many
_PURGE: Final = """
local page = redis.call('HSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
for i = 1, #page[2], 2 do
  local key = ARGV[1] .. page[2][i]
  if redis.call('GET', key) == '@' .. KEYS[1] then redis.call('UNLINK', key) end
end
if page[1] == '0' then redis.call('UNLINK', KEYS[1]) end
return page[1]
"""

# KEYS: record. ARGV: the id
_FORGET: Final = """
local id = id_of(KEYS[1], ARGV[1])
local old, from, label = locate(KEYS[1], id)
redis.call('DEL', KEYS[1])
if not old then return 0 end
if from then leave(from, id, label, old) end
return 1
"""

SAVE: Final = Script((_COMMON + _SAVE).encode())
GET: Final = Script((_COMMON + _GET).encode())
SCAN: Final = Script((_COMMON + _SCAN).encode())
RESERVE: Final = Script((_COMMON + _RESERVE).encode())
DELETE: Final = Script((_COMMON + _DELETE).encode())
PURGE: Final = Script((_COMMON + _PURGE).encode())
FORGET: Final = Script((_COMMON + _FORGET).encode())
