"""Passes are found by name, and every installed one keeps to the rules for passes."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import typing

import graphs
import onnx_ir as ir
import pytest

from graphopt import pipeline, registry
from graphopt.errors import PassError, PipelineError
from graphopt.passbase import Context, Pass, Promise
from graphopt.pipeline.values import format_value

SOURCE = """
import dataclasses
from typing import ClassVar
from graphopt.passbase import Pass, PassResult, Promise

@dataclasses.dataclass(frozen=True)
class Mine(Pass):
    name: ClassVar[str] = "mine"
    promise: ClassVar[Promise] = Promise.EXACT

    def run(self, model, context):
        return PassResult(model, modified=False)

not_a_class = Mine()
"""


def test_a_plug_in_is_found_like_a_built_in_pass(plugin) -> None:
    plugin(SOURCE, {"mine": "Mine"})
    assert "mine" in registry.names()
    assert "eliminate-identity" in registry.names()
    assert registry.names() == sorted(registry.names())
    assert pipeline.parse("mine") == [registry.find("mine")()]


def test_listing_the_names_imports_no_pass(plugin) -> None:
    plugin("raise RuntimeError('imported')", {"mine": "Mine"})
    assert "mine" in registry.names()
    assert "plugged_in" not in sys.modules


@pytest.mark.parametrize(
    ("source", "target", "code", "said"),
    [
        ("import no_such_module", "Mine", "import", "No module named 'no_such_module'"),
        ("raise RuntimeError('broken')", "Mine", "import", "RuntimeError: broken"),
        ("def f(:", "Mine", "import", "SyntaxError"),
        (SOURCE, "Missing", "import", "AttributeError"),
        (SOURCE, "not_a_class", "not-a-pass", "not a class derived from Pass"),
        ("Mine = dict", "Mine", "not-a-pass", "not a class derived from Pass"),
        (SOURCE.replace('"mine"', '"yours"'), "Mine", "name", "calls itself 'yours'"),
    ],
)
def test_a_broken_plug_in_is_named(plugin, source: str, target: str, code: str, said) -> None:
    plugin(source, {"mine": target})
    with pytest.raises(PassError, match=re.escape(said)) as caught:
        registry.find("mine")
    assert caught.value.code == f"pass/{code}"
    assert "'mine'" in str(caught.value) or "plugged_in:" in str(caught.value)


def test_two_packages_with_the_same_name_clash(plugin) -> None:
    plugin(SOURCE, {"mine": "Mine"}, module="first_package")
    plugin(SOURCE, {"mine": "Mine"}, module="second_package")
    with pytest.raises(PipelineError, match="two packages declare a pass 'mine'") as caught:
        registry.names()
    assert "first_package:Mine" in str(caught.value)
    assert "second_package:Mine" in str(caught.value)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(PipelineError, match="Did you mean 'eliminate-identity'"):
        registry.find("eliminate-idenity")


@pytest.mark.parametrize("name", registry.names())
class TestEveryInstalledPass:
    def test_is_a_frozen_dataclass_with_typed_options(self, name: str) -> None:
        cls = registry.find(name)
        assert cls.name == name
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert isinstance(cls.promise, Promise)
        assert dataclasses.is_dataclass(cls)
        assert cls.__dataclass_params__.frozen
        fields = {field.name for field in dataclasses.fields(cls)}
        hints = typing.get_type_hints(cls)
        annotated = {
            key
            for key, kind in hints.items()
            if typing.get_origin(kind) is not typing.ClassVar
        }
        assert annotated == fields, "an annotated option is not a field: decorate the class"
        for late in cls.after:
            assert late in registry.names()

    def test_every_option_can_be_written_as_text(self, name: str) -> None:
        cls = registry.find(name)
        for field in dataclasses.fields(cls):
            if field.default is dataclasses.MISSING:
                continue
            text = format_value(field.default)
            written = f"{name}{{{field.name.replace('_', '-')}={text}}}"
            assert pipeline.parse(written) == [cls()]

    def test_has_a_docstring_with_all_parts(self, name: str) -> None:
        module = inspect.getdoc(sys.modules[registry.find(name).__module__]) or ""
        for part in ("Before -> after", "Precondition", "Numerics:", "Scope:", "Reference:"):
            assert part in module, f"{name}: the module docstring has no {part!r}"
        assert module.splitlines()[0].endswith(".")

    def test_leaves_a_graph_alone_that_has_nothing_to_match(self, name: str) -> None:
        cls: type[Pass] = registry.find(name)
        if cls.needs_samples:
            with pytest.raises(Exception, match="samples"):
                Context().required_samples(cls())
            return
        model = graphs.load("g (float[N] x) => (float[N] y) { y = Relu(x) }")
        before = ir.to_proto(model).SerializeToString()
        with Context().closing() as context:
            result = cls().run(model, context)
        assert not result.modified
        assert ir.to_proto(result.model).SerializeToString() == before
        assert not context.ledger.applications
