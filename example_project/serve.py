"""Serve the example project on a listening socket that the launcher has opened.

The launcher opens the socket, so the port is known before this process starts and nobody can
take it in between.
"""

from __future__ import annotations

import argparse
import socket

import uvicorn


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="descriptor of a listening socket")
    options = parser.parse_args()
    config = uvicorn.Config(
        "demo_site.asgi:application",
        lifespan="off",
        log_level="warning",
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=options.fd)])


if __name__ == "__main__":
    main()
