"""An ONNX folder from elsewhere gets nothing but what a text model needs: no native code, no file outside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf.descriptor import Descriptor
from onnx import TensorProto, helper

from core.chat import ChatSession
from core.errors import RequestError
from core.optimize.session import OnnxSession
from core.optimize.trusted import _PARTS, check_onnx_folder

PLAIN: dict[str, Any] = {
    "model": {
        "type": "phi3",
        "context_length": 64,
        "decoder": {
            "filename": "model.onnx",
            "session_options": {"log_id": "x", "provider_options": [{"cuda": {"enable_cuda_graph": "0"}}]},
            "inputs": {"input_ids": "input_ids"},
        },
    },
    "search": {"max_length": 64},
}


def tensor(place: str = "") -> TensorProto:
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    if place:
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value=place)
    else:
        made.float_data.append(1.0)
    return made


def graph(**parts: Any) -> onnx.GraphProto:
    return onnx.GraphProto(name="g", **parts)


def folder(path: Path, config: dict[str, Any] | str = PLAIN, made: onnx.ModelProto | None = None) -> Path:
    path.mkdir()
    (path / "genai_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    made = made or onnx.ModelProto(graph=graph(initializer=[tensor()]))
    (path / "model.onnx").write_bytes(made.SerializeToString())
    return path


def refusal(path: Path) -> RequestError:
    with pytest.raises(RequestError) as caught:
        check_onnx_folder(path)
    return caught.value


def changed(where: str, value: Any) -> dict[str, Any]:
    config = json.loads(json.dumps(PLAIN))
    *parents, last = where.split(".")
    place = config
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = value
    return dict(config)


def test_a_plain_folder_passes(tmp_path: Path) -> None:
    check_onnx_folder(folder(tmp_path / "m"))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("model.decoder.session_options.custom_ops_library", "/tmp/evil.so"),
        ("model.decoder.session_options.enable_profiling", "/tmp/profile"),
        ("model.decoder.session_options.session!model_external_initializers_file_folder_path", "/etc"),
        ("model.decoder.pipeline", [{"m": {"filename": "../x.onnx"}}]),
        ("model.vision", {"filename": "/x.onnx"}),
        ("model.anything_new", 1),
        ("engine", {}),
    ],
)
def test_a_key_that_is_not_known_is_refused_by_name(tmp_path: Path, where: str, value: Any) -> None:
    config = changed(where, value)
    if "!" in where:
        options = config["model"]["decoder"]["session_options"]
        options[where.rpartition(".")[2].replace("!", ".")] = options.pop(where.rpartition(".")[2])
    error = refusal(folder(tmp_path / "m", config))
    assert error.code == "onnx.settings"
    assert where.replace("!", ".") in error.detail


def test_a_providers_library_is_refused(tmp_path: Path) -> None:
    options = [{"QNN": {"backend_path": "/tmp/evil.so"}}]
    config = changed("model.decoder.session_options.provider_options", options)
    assert "provider_options.QNN" in refusal(folder(tmp_path / "m", config)).detail


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """The runtime obeys the first as well; a reader of JSON sees the last alone."""
    evil = '{"session_options": {"custom_ops_library": "evil.so"}, "session_options": {}}'
    text = json.dumps(changed("model.decoder", "HERE")).replace('"HERE"', evil)
    assert "session_options, which is there twice" in refusal(folder(tmp_path / "m", text)).detail


@pytest.mark.parametrize("name", ["../model.onnx", "/tmp/model.onnx", "", 3])
def test_a_graph_elsewhere_is_refused(tmp_path: Path, name: Any) -> None:
    assert refusal(folder(tmp_path / "m", changed("model.decoder.filename", name))).code == "model.outside"


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"model": []}', '{"a":' * 5000, '{"model": {"decoder": 1}}']
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    assert refusal(folder(tmp_path / "m", text)).code.startswith("onnx.")


def test_a_link_below_that_leads_out_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    (path / "adapters").mkdir()
    (path / "adapters" / "x.onnx_adapter").symlink_to("/etc/hostname")
    assert refusal(path).code == "model.outside"


def hiding(evil: TensorProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """A tensor in every place of a model where ONNX has one."""
    inner = graph(initializer=[evil])
    sparse = onnx.SparseTensorProto(values=evil)
    for name, attribute in {
        "a subgraph": onnx.AttributeProto(name="then_branch", g=inner, type=onnx.AttributeProto.GRAPH),
        "subgraphs": onnx.AttributeProto(name="a", graphs=[inner]),
        "a constant": onnx.AttributeProto(name="value", t=evil),
        "constants": onnx.AttributeProto(name="value", tensors=[evil]),
        "a sparse constant": onnx.AttributeProto(name="value", sparse_tensor=sparse),
    }.items():
        node = onnx.NodeProto(op_type="If", attribute=[attribute])
        yield name, onnx.ModelProto(graph=graph(node=[node]))
        yield name + " of a function", onnx.ModelProto(functions=[onnx.FunctionProto(node=[node])])
    yield "an initializer", onnx.ModelProto(graph=inner)
    yield "a sparse initializer", onnx.ModelProto(graph=graph(sparse_initializer=[sparse]))
    yield "training", onnx.ModelProto(training_info=[onnx.TrainingInfoProto(algorithm=inner)])


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "a/../../secret", "*/_ORT_MEM_ADDR_/*"])
def test_weights_outside_are_refused_wherever_they_are_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "secret").write_bytes(b"1234")
    for name, made in hiding(tensor(place)):
        path = folder(tmp_path / name, made=made)
        with pytest.raises(RequestError) as caught:
            check_onnx_folder(path)
        assert repr(place) in caught.value.detail, name


def test_every_way_to_a_tensor_in_onnx_is_known() -> None:
    kinds = {
        "ModelProto": "model", "TrainingInfoProto": "training", "FunctionProto": "function", "GraphProto": "graph",
        "NodeProto": "node", "AttributeProto": "attribute", "SparseTensorProto": "sparse", "TensorProto": "tensor",
        "StringStringEntryProto": "entry",
    }  # fmt: skip

    def leads_to_a_tensor(kind: Descriptor, seen: frozenset[str] = frozenset()) -> bool:
        if kind.name == "TensorProto":
            return True
        return kind.name not in seen and any(
            leads_to_a_tensor(field.message_type, seen | {kind.name})
            for field in kind.fields
            if field.message_type is not None
        )

    for proto, kind in kinds.items():
        descriptor = getattr(onnx, proto).DESCRIPTOR
        expected = {
            field.number: kinds[field.message_type.name]
            for field in descriptor.fields
            if field.message_type is not None
            and (
                leads_to_a_tensor(field.message_type)
                or (proto, field.name) == ("TensorProto", "external_data")
            )
        }
        assert _PARTS[kind] == expected, proto


def test_a_part_compiled_for_a_device_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("EPContext", [], ["y"], domain="com.microsoft", ep_cache_context="../engine")
    made = onnx.ModelProto(graph=graph(node=[node]))
    assert refusal(folder(tmp_path / "m", made=made)).code == "onnx.compiled"


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x00\x00\x00\x00ORTM" + bytes(64), b"\xff" * 40])
def test_what_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    path = folder(tmp_path / "m")
    (path / "model.onnx").write_bytes(content)
    assert refusal(path).code == "onnx.graph"


def test_chat_and_the_trial_open_no_such_folder(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", changed("model.decoder.session_options.custom_ops_library", "evil.so"))
    with pytest.raises(RequestError, match="does not need"):
        ChatSession(path)
    with pytest.raises(RequestError, match="does not need"):
        OnnxSession(path)
    made = onnx.ModelProto(graph=graph(initializer=[tensor("../secret")]))
    path = folder(tmp_path / "n", made=made)
    with ChatSession(path) as session, pytest.raises(RequestError, match="outside its folder"):
        session.wait_ready(60)
