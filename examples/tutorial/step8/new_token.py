"""Prints a token that is good for an hour: python new_token.py NAME GROUP..."""

import sys
import time
from pathlib import Path

import jwt


def main(name: str, *groups: str) -> None:
    claims = {
        "iss": "shop",
        "aud": "orders",
        "sub": name,
        "groups": groups,
        "exp": int(time.time()) + 3600,
    }
    print(jwt.encode(claims, Path("tokens.secret").read_text().strip(), algorithm="HS256"))


if __name__ == "__main__":
    main(*sys.argv[1:])
