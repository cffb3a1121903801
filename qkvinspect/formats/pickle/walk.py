"""The walk over the opcodes: those that fill a checkpoint here, the others by table."""

from __future__ import annotations

import struct
from itertools import repeat

from qkvinspect.error_codes import Code
from qkvinspect.errors import CheckpointError
from qkvinspect.formats.pickle.keys import MalformedError
from qkvinspect.formats.pickle.machine import Machine
from qkvinspect.formats.pickle.opcodes import STEPS
from qkvinspect.formats.pickle.tensor_calls import REBUILD, tensor_call

_U32 = struct.Struct("<I").unpack_from

_REASONS: dict[type[Exception], tuple[Code, str]] = {
    IndexError: (Code.PICKLE_TRUNCATED, "it ends inside an opcode"),
    struct.error: (Code.PICKLE_TRUNCATED, "it ends inside a number"),
    UnicodeDecodeError: (Code.PICKLE_TEXT, "text that is not UTF-8"),
    ValueError: (Code.PICKLE_NUMBER, "a number that cannot be read"),
}


def walk(machine: Machine) -> object:
    """Follow the opcodes up to STOP and return what they make.

    Raises:
        CheckpointError: they make nothing, or more than the limits allow.
    """
    try:
        return _walk(machine)
    except (MalformedError, IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        ended = machine.position >= len(machine.data)
        if isinstance(error, MalformedError):
            code, reason = error.why
        elif isinstance(error, IndexError) and not ended:
            code, reason = Code.PICKLE_STACK, "the stack is empty"
        else:
            code, reason = _REASONS[type(error)]
        raise CheckpointError(
            f"malformed pickle at byte {machine.position}: {reason}",
            code=code,
            file=machine.where,
            hint="the file is damaged or is not a checkpoint",
        ) from error


def _walk(machine: Machine) -> object:  # noqa: PLR0915  (the loop of the whole reader: every call costs)
    data, memo, marks = machine.data, machine.memo, machine.marks
    at, edge, stack, top = machine.position, machine.edge, machine.stack, machine.top
    try:
        for _ in repeat(None, machine.limits.opcodes):
            if at >= edge:
                machine.position, machine.stack = at, stack
                machine.at_edge()
                edge = machine.edge
            opcode = data[at]
            at += 1
            if opcode == 0x72:  # LONG_BINPUT
                index = _U32(data, at)[0]
                memo[index] = stack[-1]
                if index > top:
                    top = index
                else:
                    machine.orderly = False
                at += 4
            elif opcode in (0x68, 0x6A):  # BINGET, LONG_BINGET
                if opcode == 0x68:
                    index = data[at]
                    at += 1
                else:
                    index = _U32(data, at)[0]
                    at += 4
                value = memo[index] if index in memo else machine.part(index)
                if value is REBUILD and machine.orderly:
                    counted = machine.counted if 4 * top + 64 < len(machine.counted) else machine.count(top)
                    call = tensor_call(data, at, top, counted, machine.known, machine.named)
                    if call is not None:
                        value, at, top = call
                        machine.calls.append(value)
                        machine.persistent.append(value)
                stack.append(value)
            elif opcode == 0x58:  # BINUNICODE
                end = at + 4 + _U32(data, at)[0]
                if end > len(data):
                    raise MalformedError(
                        Code.PICKLE_LENGTH, f"{end - at - 4} bytes announced, {len(data) - at - 4} left"
                    )
                stack.append(data[at + 4 : end].decode("utf-8", "surrogatepass"))
                at = end
            elif opcode == 0x4B:  # BININT1
                stack.append(data[at])
                at += 1
            elif opcode == 0x28:  # MARK
                marks.append(stack)
                stack = []
            elif opcode == 0x74:  # TUPLE
                if not marks:
                    raise MalformedError(Code.PICKLE_MARK, "a MARK is missing")
                items = tuple(stack)
                stack = marks.pop()
                stack.append(items)
            elif opcode == 0x71:  # BINPUT
                index = data[at]
                memo[index] = stack[-1]
                if index > top:
                    top = index
                else:
                    machine.orderly = False
                at += 1
            elif opcode == 0x85:  # TUPLE1
                stack[-1] = (stack[-1],)
            elif opcode == 0x86:  # TUPLE2
                second = stack.pop()
                stack[-1] = (stack[-1], second)
            elif opcode == 0x52:  # REDUCE
                arguments = stack.pop()
                stack.append(machine.call(stack.pop(), arguments))
            elif opcode == 0x29:  # EMPTY_TUPLE
                stack.append(())
            elif opcode == 0x7D:  # EMPTY_DICT
                stack.append({})
            elif opcode == 0x2E:  # STOP
                if len(stack) != 1 or marks:
                    raise MalformedError(Code.PICKLE_STOP, "STOP leaves an unfinished stack")
                machine.position = at
                machine.at_end()
                return stack[0]
            else:
                step = STEPS[opcode]
                if step is None:
                    raise MalformedError(Code.PICKLE_OPCODE, f"opcode {bytes([opcode])!r} has no place in a checkpoint")
                machine.position, machine.stack, machine.top = at, stack, top
                step(machine)
                at, edge, stack, top = machine.position, machine.edge, machine.stack, machine.top
    finally:
        machine.position = max(at, machine.position)
    machine.limits.check("opcodes", machine.limits.opcodes + 1, machine.where)
    raise AssertionError("unreachable")
