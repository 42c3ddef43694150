"""The scripts that elect and commit on a Redis server.

A lease is one string, ``phase:attempts:end:token``, whose end is the server's own time in
milliseconds, so no client's clock matters. The key outlives the lease: a later claim learns from it
how many dispatches got no answer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

__all__ = ["CLAIM", "COMMIT", "RELEASE", "RENEW", "Script"]


@dataclass(frozen=True)
class Script:
    """A script and the name under which the server keeps it."""

    source: bytes
    sha: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.source).hexdigest().encode())


_COMMON = """
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function parse(raw)
  if not raw then return nil end
  local phase, attempts, ends, token = string.match(raw, '^([12]):(%d+):(%d+):(.+)$')
  if not phase then return nil end
  return {tonumber(phase), tonumber(attempts), tonumber(ends), token}
end
local function has_room(key, member, cap, now)
  if redis.call('ZSCORE', key, member) then return true end
  if redis.call('ZCARD', key) < cap then return true end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  return redis.call('ZCARD', key) < cap
end
"""

# KEYS: lease, members, stamps…, reads…
# ARGV: token, phase, lease ms, life ms, member, cap, stamp ms, a fresh value for each stamp…
_CLAIM = """
local token, want = ARGV[1], tonumber(ARGV[2])
local length, life = tonumber(ARGV[3]), tonumber(ARGV[4])
local cap, stamp_life, stamps = tonumber(ARGV[6]), ARGV[7], #ARGV - 7
local now = now_ms()
local values = redis.call('MGET', unpack(KEYS))
local held = parse(values[1])
local live = held and held[3] > now
local won = not live or held[4] == token or (held[1] == 1 and want == 2)
local full = won and cap > 0 and not has_room(KEYS[2], ARGV[5], cap, now)
local attempts = held and held[2] or 0
local answer
if won and not full then
  if held and held[4] ~= token and held[1] == 1 and want == 1 then attempts = attempts + 1 end
  if held and held[4] == token and held[1] > want then want = held[1] end
  if want == 1 then length = length * 2 ^ math.min(attempts, 5) end
  if want == 1 and cap > 0 then
    -- It takes a place while it waits: no more messages wait than there may be keys.
    life = 2 * length
    local ends = redis.call('ZSCORE', KEYS[2], ARGV[5])
    if not ends or tonumber(ends) < now + length then
      redis.call('ZADD', KEYS[2], string.format('%.0f', now + length), ARGV[5])
    end
    if redis.call('PTTL', KEYS[2]) < length then
      redis.call('PEXPIRE', KEYS[2], string.format('%.0f', length))
    end
  end
  local record = string.format('%d:%d:%.0f:', want, attempts, now + length) .. token
  redis.call('SET', KEYS[1], record, 'PX', string.format('%.0f', math.max(length, life)))
  answer = {1, 0, want, attempts, token}
else
  answer = {0, full and 1 or 0, 0, attempts, false}
  if live then answer[3] = held[1]; answer[5] = held[4] end
end
for i = 3, #KEYS do
  local value = values[i]
  if i <= stamps + 2 and won and not full then
    local fresh = ARGV[7 + i - 2]
    if not value or #value ~= #fresh then
      value = fresh
      redis.call('SET', KEYS[i], value, 'PX', stamp_life)
    end
  end
  answer[#answer + 1] = value
end
return answer
"""

# KEYS: lease, members, expected…, extended…, put…, removed…
# ARGV: leased (1 or 0), token, member, cap, numbers of expected, extended and put keys,
#       the expected values, the ms of each extended key, value and ms of each put
_COMMIT = """
local leased, token = ARGV[1] == '1', ARGV[2]
local expected, extended, put = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local extend_at, put_at = 2 + expected, 2 + expected + extended
local arg_extend, arg_put = 7 + expected, 7 + expected + extended
if leased then
  local held = parse(redis.call('MGET', KEYS[1])[1])
  if not held or held[4] ~= token then
    -- The reply to our own commit may have been lost.
    if put > 0 and redis.call('MGET', KEYS[put_at + put])[1] == ARGV[arg_put + 2 * put - 1] then
      return 'committed'
    end
    return 'lost'
  end
  redis.call('DEL', KEYS[1])
end
for i = 1, expected do
  if redis.call('MGET', KEYS[2 + i])[1] ~= ARGV[7 + i] then return 'overtaken' end
end
local cap, now = tonumber(ARGV[4]), now_ms()
if cap > 0 and put > 0 then
  if not has_room(KEYS[2], ARGV[3], cap, now) then return 'full' end
  local life = tonumber(ARGV[arg_put + 2 * put])
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + life), ARGV[3])
  if redis.call('PTTL', KEYS[2]) < life then
    redis.call('PEXPIRE', KEYS[2], string.format('%.0f', life))
  end
end
for i = 1, extended do
  local left, life = redis.call('PTTL', KEYS[extend_at + i]), tonumber(ARGV[arg_extend + i])
  if left >= 0 and left < life then
    redis.call('PEXPIRE', KEYS[extend_at + i], string.format('%.0f', life))
  end
end
for i = 1, put do
  redis.call('SET', KEYS[put_at + i], ARGV[arg_put + 2 * i - 1], 'PX', ARGV[arg_put + 2 * i])
end
for i = put_at + put + 1, #KEYS do redis.call('DEL', KEYS[i]) end
return 'committed'
"""

# KEYS: lease. ARGV: token, ms.
_RENEW = """
local held = parse(redis.call('MGET', KEYS[1])[1])
if not held or held[1] ~= 2 or held[4] ~= ARGV[1] then return 0 end
local length = tonumber(ARGV[2])
local record = string.format('2:%d:%.0f:', held[2], now_ms() + length) .. ARGV[1]
local left = math.max(length, redis.call('PTTL', KEYS[1]))
redis.call('SET', KEYS[1], record, 'PX', string.format('%.0f', left))
return 1
"""

# KEYS: lease. ARGV: token.
_RELEASE = """
local held = parse(redis.call('MGET', KEYS[1])[1])
if not held or held[4] ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1
"""

CLAIM: Final = Script((_COMMON + _CLAIM).encode())
COMMIT: Final = Script((_COMMON + _COMMIT).encode())
RENEW: Final = Script((_COMMON + _RENEW).encode())
RELEASE: Final = Script((_COMMON + _RELEASE).encode())
