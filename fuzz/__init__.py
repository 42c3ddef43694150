"""Fuzzers of what parses bytes from outside, and of what names keys: ``make fuzz``.

Each module has ``check(data)``, which raises where a promise is broken. ``python -m fuzz entries``
runs one with atheris, further arguments are libFuzzer's. What has found something new is kept in
``corpus``, which ``tests/test_fuzz.py`` runs without atheris.
"""
