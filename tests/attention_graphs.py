"""Small graphs that compute attention, in the spellings that exporters use.

Every graph takes ``x: float[B, S, 8]``, of which queries, keys and values are made, or a
packed ``x: float[B, S, 24]``; heads are 4 of width 2. What is masked is the input ``m``.
"""

from __future__ import annotations

import dataclasses
import re

__all__ = ["GROUPS", "MASKS", "SCALES", "SPLITS", "Spelling", "masked_by"]

SCALES = ("none", "queries", "keys", "both", "mul", "div")
"""Where the factor is."""

MASKS: dict[str, tuple[str, str, str]] = {
    "none": ("", "", "p = Softmax <axis=-1> (s)"),
    "additive": ("float[B, 1, S, S] m", "", "a = Add(s, m)\n p = Softmax <axis=-1> (a)"),
    "additive_first": ("float[4, S, S] m", "", "a = Add(m, s)\n p = Softmax <axis=-1> (a)"),
    "table": ("", "", "a = Add(s, table)\n p = Softmax <axis=-1> (a)"),
    "padding": (
        "bool[B, S] m",
        "m4 = Unsqueeze(m, inner)\n f = Where(m4, zero, lowest)",
        "a = Add(s, f)\n p = Softmax <axis=-1> (a)",
    ),
    "guarded": (
        "bool[B, 1, S, S] m",
        "f = Where(m, zero, infinite)",
        """a = Add(s, f)
           r = Softmax <axis=-1> (a)
           t = IsNaN(r)
           p = Where(t, zero, r)""",
    ),
    "guarded_by_mask": (
        "bool[B, 1, S, S] m",
        "f = Where(m, zero, infinite)",
        """a = Add(s, f)
           r = Softmax <axis=-1> (a)
           w = ReduceMax(f, last)
           t = Equal(w, infinite)
           p = Where(t, zero, r)""",
    ),
    "guarded_by_nothing": (
        "",
        "",
        """r = Softmax <axis=-1> (s)
           p = Where(never, zero, r)""",
    ),
    "where": (
        "bool[B, 1, S, S] m",
        "",
        "a = Where(m, lowest, s)\n p = Softmax <axis=-1> (a)",
    ),
    "where_kept": (
        "bool[1, 1, S, S] m",
        "",
        """a = Where(m, s, infinite)
           r = Softmax <axis=-1> (a)
           t = IsNaN(r)
           p = Where(t, zero, r)""",
    ),
    "causal": (
        "",
        """xs = Shape <start = 1, end = 2> (x)
           n = Squeeze(xs)
           row = Range(i0, n, i1)
           column = Unsqueeze(row, last)
           seen = LessOrEqual(row, column)
           f = Where(seen, zero, lowest)""",
        "a = Add(s, f)\n p = Softmax <axis=-1> (a)",
    ),
    "two": (
        "bool[B, 1, 1, S] m",
        "f = Where(m, zero, lowest)",
        "a0 = Add(s, table)\n a = Add(a0, f)\n p = Softmax <axis=-1> (a)",
    ),
}
"""Name -> the input, what makes the mask of it, and what makes probabilities of scores."""

SPLITS = ("plain", "one_transpose", "packed_split", "packed_gather", "batched")
"""How heads are made: by Reshape and Transpose of three tensors; with the Transpose of the
keys in the same operator; of one tensor, cut before or after; with batch and heads in one."""

GROUPS = (1, 2, 4)
"""How many heads of queries share one of keys and values."""

_CONSTANTS = """int64[1] first = {0}, int64[1] last = {-1}, int64[2] inner = {1, 2},
    int64[4] heads = {0, 0, 4, 2}, int64[3] merged = {0, 0, 8}, int64[1] third = {2},
    int64[5] packed = {0, 0, 3, 4, 2}, int64[3] thirds = {8, 8, 8}, int64 i0 = {0},
    int64 i1 = {1}, int64 i2 = {2}, int64[3] batched = {-1, 4, 2}, float zero = {0},
    int64[4] apart = {-1, 4, 4, 2}, float half = {0.7}, float two = {1.4},
    float fourth = {0.8}, float lowest = {-3.4028234663852886e+38}, float infinite = {-inf},
    bool never = {0},
    float[1, 4, 4, 4] table = TABLE"""


@dataclasses.dataclass(frozen=True)
class Spelling:
    """One way to write attention; see the constants of this module."""

    scale: str = "none"
    mask: str = "none"
    split: str = "plain"
    group: int = 1

    def text(self) -> str:
        """Return the graph in ONNX text."""
        mask, before, after = MASKS[self.mask]
        width = 24 if self.split.startswith("packed") else 8
        inputs = [f"float[B, S, {width}] x", mask]
        shared = 8 // self.group
        constants = _CONSTANTS
        if self.group > 1:
            inputs += [f"float[B, S, {shared}] k0", f"float[B, S, {shared}] v0"]
            constants += f""", int64[4] shared = {{0, 0, {4 // self.group}, 2}},
                int64[5] repeat = {{1, 1, {self.group}, 1, 1}},
                int64[4] flat = {{0, 4, -1, 2}}"""
        lines = [self._heads(), before, self._scores(), after, self._result()]
        table = ", ".join(str((index * 7 % 11) / 4) for index in range(64))
        text = f"""g ({", ".join(one for one in inputs if one)}) => (float[B, S, 8] z)
            <{constants.replace("TABLE", f"{{{table}}}")}> {{ {chr(10).join(lines)} }}"""
        # Some can only be written with a number of positions.
        fixed = self.split == "batched" or self.mask in ("table", "two")
        return re.sub(r"\bS\b", "4", text) if fixed else text

    def _heads(self) -> str:
        if self.group > 1:
            return f"""q3 = Reshape(x, heads)
                q = Transpose <perm = [0, 2, 1, 3]> (q3)
                {self._repeated("k")}
                kt = Transpose <perm = [0, 1, 3, 2]> (k)
                {self._repeated("v")}"""
        if self.split == "packed_gather":
            return """h = Reshape(x, packed)
                t5 = Transpose <perm = [2, 0, 3, 1, 4]> (h)
                q = Gather <axis = 0> (t5, i0)
                k = Gather <axis = 0> (t5, i1)
                v = Gather <axis = 0> (t5, i2)
                kt = Transpose <perm = [0, 1, 3, 2]> (k)"""
        cut = "qx, kx, vx = Split <axis = 2> (x, thirds)"
        names = ("qx", "kx", "vx")
        if self.split != "packed_split":
            cut, names = "kx = Neg(x)\n vx = Exp(x)", ("x", "kx", "vx")
        lines = [cut]
        for name, source in zip("qkv", names, strict=True):
            last = f"{name}4" if self.split == "batched" else name
            lines.append(f"{name}3 = Reshape({source}, heads)")
            lines.append(f"{last} = Transpose <perm = [0, 2, 1, 3]> ({name}3)")
            if self.split == "batched":
                lines.append(f"{name} = Reshape({name}4, batched)")
        if self.split == "batched":
            lines.append("kt = Transpose <perm = [0, 2, 1]> (k)")
        elif self.split == "one_transpose":
            lines.append("kt = Transpose <perm = [0, 2, 3, 1]> (k3)")
        else:
            lines.append("kt = Transpose <perm = [0, 1, 3, 2]> (k)")
        return "\n".join(lines)

    def _repeated(self, name: str) -> str:
        if self.group == 4:  # broadcast by the MatMul itself
            return f"""{name}3 = Reshape({name}0, shared)
                {name} = Transpose <perm = [0, 2, 1, 3]> ({name}3)"""
        return f"""{name}3 = Reshape({name}0, shared)
            {name}4 = Transpose <perm = [0, 2, 1, 3]> ({name}3)
            {name}5 = Unsqueeze({name}4, third)
            {name}6 = Expand({name}5, repeat)
            {name} = Reshape({name}6, flat)"""

    def _scores(self) -> str:
        return {
            "none": "s = MatMul(q, kt)",
            "queries": "qs = Mul(q, half)\n s = MatMul(qs, kt)",
            "keys": "ks = Div(kt, two)\n s = MatMul(q, ks)",
            "both": "qs = Mul(fourth, q)\n ks = Mul(kt, fourth)\n s = MatMul(qs, ks)",
            "mul": "d = MatMul(q, kt)\n s = Mul(d, half)",
            "div": "d = MatMul(q, kt)\n s = Div(d, two)",
        }[self.scale]

    def _result(self) -> str:
        product = "o4 = MatMul(p, v)"
        if self.split == "batched":
            product = "o = MatMul(p, v)\n o4 = Reshape(o, apart)"
        return f"""{product}
            o3 = Transpose <perm = [0, 2, 1, 3]> (o4)
            z = Reshape(o3, merged)"""


def masked_by(spelling: Spelling) -> bool:
    """Whether the masks of ``spelling`` can be added to its scores."""
    return spelling.split != "batched" or spelling.mask in (
        "none",
        "causal",
        "guarded_by_nothing",
    )
