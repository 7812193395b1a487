"""Numbered transactions: each rewrite is made whole and written down, or not at all.

Every change of a graph goes through ``Rewriter.apply``: it takes a number from the ledger,
runs an edit, writes down what the edit did, and takes all of it back when the edit raises or
a guard objects. So a failed rewrite changes nothing, a run can be cut after any rewrite, and
everything that changed can be traced to one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import onnx_ir as ir

from graphopt.changes import OutputPlaces
from graphopt.edit import Edit, Rewrite
from graphopt.ledger import Application, Ledger
from graphopt.names import Names
from graphopt.records import anchor_name

__all__ = ["Guard", "Observer", "Rewriter"]

Guard: TypeAlias = Callable[[ir.Model, Application], str]
"""Checks the model after one application; returns why it must be undone, or ``""``."""
Observer: TypeAlias = Callable[[ir.Model, Application], None]
"""Looks at the model after one application that stands."""


class Rewriter:
    """Applies rewrites to one model on behalf of one pass.

    Args:
        model: The model, edited in place.
        pass_name: Name written into the ledger.
        ledger: Gives the numbers, and the limit.
        guards: Each looks at the model after an application and may object to it.
        names: Names in use; scanned from the model when not given.
        observers: Each looks at the model after an application that stands.
    """

    def __init__(
        self,
        model: ir.Model,
        pass_name: str,
        ledger: Ledger,
        guards: Iterable[Guard] = (),
        names: Names | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        self.model = model
        self.pass_name = pass_name
        self.ledger = ledger
        self.names = names or Names(model)
        self._guards = tuple(guards)
        self._observers = tuple(observers)
        self._places = OutputPlaces()
        self._refused: set[tuple[str, ir.Node | str]] = set()

    def apply(self, rule: str, anchor: ir.Node | str, rewrite: Rewrite) -> Edit | None:
        """Make one numbered application.

        Returns:
            The accepted edit, or ``None`` when the limit is reached, when the rewrite changed
            nothing, or when a guard objects (the ledger then says which and why) or has
            objected before to this rule at this anchor.

        Raises:
            PassError: The rewrite removes what is still used; the model is as before.
            Exception: Whatever ``rewrite`` or a guard raises; the model is as before.
        """
        key = (rule, anchor)
        if self.ledger.exhausted or key in self._refused:
            return None
        name = anchor if isinstance(anchor, str) else anchor_name(anchor)
        entry = self.ledger.open(self.pass_name, rule, name)
        edit = Edit(self.model, self.names, entry, self._places)
        try:
            rewrite(edit)
            if not edit.changed_anything:
                self.ledger.drop(entry)
                return None
            edit._close()
            for guard in self._guards:
                if objection := guard(self.model, entry):
                    edit._roll_back()
                    entry.undone = objection
                    self._refused.add(key)
                    return None
        except BaseException as error:
            edit._roll_back()
            self.ledger.drop(entry)
            error.add_note(f"in rewrite {entry.summary()}")
            raise
        edit._commit()
        self.ledger.settle(entry)
        for observer in self._observers:
            observer(self.model, entry)
        return edit

    def skip(self, rule: str, anchor: ir.Node | str, reason: str) -> None:
        """Tell the ledger why ``anchor`` was left alone."""
        if isinstance(anchor, str):
            self.ledger.skip(self.pass_name, rule, anchor, "", reason)
        else:
            name = anchor_name(anchor)
            self.ledger.skip(self.pass_name, rule, name, anchor.op_type, reason)
