#!/usr/bin/env python3
"""Remakes envoy.binpb.gz: the Envoy v3 descriptor set that `proto/build.rs` and the JSON codec read.

Usage:  pip install grpcio-tools xds-protos
        cargo fetch envoy-types 0.7.7 somewhere, then
        python3 proto/envoy/remake.py PATH/TO/envoy-types-0.7.7/proto

Sources and licences stand in SOURCES.md. No source text is copied here: the file holds compiled descriptors only.
"""
import gzip
import importlib
import pathlib
import sys
import tempfile

from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_tools import protoc

# Messages Envoy configs name in an Any but that no Envoy file imports; taken from the xds-protos package.
EXTRA = [
    "xds.type.v3.typed_struct", "xds.type.v3.range", "xds.type.v3.cel",
    "udpa.type.v1.typed_struct",
    "xds.type.matcher.v3.cel", "xds.type.matcher.v3.domain", "xds.type.matcher.v3.http_inputs",
    "xds.type.matcher.v3.ip", "xds.type.matcher.v3.range", "xds.type.matcher.v3.regex", "xds.type.matcher.v3.string",
    "xds.type.matcher.v3.matcher",
]


def compile_tree(root: pathlib.Path) -> descriptor_pb2.FileDescriptorSet:
    roots = [root / p for p in ("data-plane-api", "xds", "protoc-gen-validate", "googleapis", "cel-spec/proto",
                                "opentelemetry-proto", "client_model", "ratelimit/api")]
    roots = [r for r in roots if r.is_dir()]
    files = []
    for r in roots:
        files += sorted(str(f.relative_to(r)) for f in r.rglob("*.proto"))
    out = tempfile.mktemp(suffix=".binpb")
    include = str(pathlib.Path(importlib.import_module("grpc_tools").__file__).parent / "_proto")
    args = ["protoc", f"-I{include}"] + [f"-I{r}" for r in roots]
    if protoc.main(args + ["--include_imports", f"--descriptor_set_out={out}"] + files) != 0:
        sys.exit("protoc failed")
    return descriptor_pb2.FileDescriptorSet.FromString(pathlib.Path(out).read_bytes())


def add_extra(fds: descriptor_pb2.FileDescriptorSet) -> None:
    have = {f.name for f in fds.file}

    def add(file):
        if file.name in have:
            return
        for dep in file.dependencies:
            add(dep)
        have.add(file.name)
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)
        fds.file.append(proto)

    for module in EXTRA:
        add(importlib.import_module(module + "_pb2").DESCRIPTOR)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    fds = compile_tree(pathlib.Path(sys.argv[1]))
    add_extra(fds)
    for f in fds.file:
        f.ClearField("source_code_info")
    out = pathlib.Path(__file__).with_name("envoy.binpb.gz")
    # mtime=0: the same input gives the same bytes.
    out.write_bytes(gzip.compress(fds.SerializeToString(deterministic=True), 9, mtime=0))
    print(f"{len(fds.file)} files, {out.stat().st_size} bytes")


main()
