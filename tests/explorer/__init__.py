"""Run the real protocol code under chosen orders of events.

- `world`: simulated time, a shared memory, and actors that stop before each command of the store.
- `stores`: a validated and a fenced store in that memory, and how to break them on purpose.
- `actors`: refreshers, writers, readers, and what besides happens: time, crashes, a flush.
- `watch`: what must hold at each moment, and when all has ended.
- `search`: every schedule of a small scene, or random ones of larger scenes.
"""
