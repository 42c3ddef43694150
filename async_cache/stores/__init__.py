"""Where entries, stamps and leases live."""
