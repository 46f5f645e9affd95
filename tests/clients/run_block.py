"""Runs Python code with await at its top level, as ``python -m asyncio`` does. Usage: python run_block.py FILE."""

import ast
import asyncio
import inspect
import sys
import types
from pathlib import Path

path = Path(sys.argv[1])
code = compile(path.read_text(), str(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


async def main():
    running = types.FunctionType(code, {"__name__": "__main__"})()
    if inspect.isawaitable(running):
        await asyncio.wait_for(running, 30)


asyncio.run(main())
