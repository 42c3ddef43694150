"""Faults: what the project promises, with everything around it breaking.

Real servers and real workers, and a proxy of our own between them and us (`proxy`). The table of
``docs/explanation/faults.md`` names for each promise the test that keeps it.

How a check is built, so that the next one looks alike:

- Each row of the table is a module ``test_<row>.py``. A check is a plain function that takes
  everything it needs and asserts; tests call it with the faults, brokers and caches of the row.
- `scale.whole` tells whether the whole suite runs (``make faults``, ``FAULTS=full``) or the small
  part of it that belongs to ``make test``. ``scale.count(300, 2000)`` picks a number by it.
  Figures of time are judged in the whole suite; the small one runs on loaded machines and judges
  order, counts and exceptions, and time generously.
- A test that only the whole suite runs is marked ``@pytest.mark.faults``.
- Each check has a *break*: a test marked ``faults`` that takes one decision out of the code
  (`breaks`), runs the check and expects it to fail. A check that cannot fail proves nothing.
"""
