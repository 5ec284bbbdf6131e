"""Numbers as compiled loops see them: bfloat16 as its bits, arrays by their addresses. Knows types; no kernel.

numba has no bfloat16: it travels as uint16, the upper half of a float32 (as int16 where it goes in matrix registers, see ``attention_matrix``). ``wide`` and ``narrow`` are chosen by type when a loop is compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

NO_NUMBER = np.uint16(0x7FC0)


def bits(tensor: Tensor) -> NDArray[Any]:
    """The array under a tensor in memory; bfloat16 as uint16."""
    import torch

    array: NDArray[Any] = tensor.detach().view(torch.uint16 if tensor.dtype == torch.bfloat16 else tensor.dtype).numpy()
    return array


def wide(number: Any) -> Any:
    """A stored number as float32; only for compiled code."""
    raise NotImplementedError


@overload(wide)
def _wide(number: Any) -> Any:
    def from_bits(number: Any) -> Any:
        return np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)

    def as_it_is(number: Any) -> Any:
        return np.float32(number)

    return from_bits if number == types.uint16 else as_it_is


def narrow(number: Any, like: Any) -> Any:
    """A float32 in the type of ``like``, rounded half to even; only for compiled code."""
    raise NotImplementedError


@overload(narrow)
def _narrow(number: Any, like: Any) -> Any:
    def to_bits(number: Any, like: Any) -> Any:
        return _rounded(number)

    def as_it_is(number: Any, like: Any) -> Any:
        return number

    return to_bits if like in (types.uint16, types.int16) else as_it_is


@numba.njit
def _rounded(number: Any) -> Any:  # pragma: no cover - compiled
    whole = np.float32(number).view(np.uint32)
    upper = np.uint16((whole + np.uint32(0x7FFF) + ((whole >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))
    return NO_NUMBER if np.isnan(number) else upper


def _pointer(_: Any, address: Any, like: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    kind: Any = types.CPointer
    return kind(like)(types.int64, like), build


pointer: Any = intrinsic(_pointer)
"""``pointer(address, like)``: an integer as a pointer to numbers of the type of ``like``; only for compiled code."""
array_at: Any = vars(numba)["carray"]
"""``array_at(pointer, length)``: the numbers there as an array; only for compiled code."""
