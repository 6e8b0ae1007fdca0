"""The verdict of Envoy's and of weir-proxy's `--mode validate` on every file of testdata/envoy, side by side.

A file that Envoy takes and weir-proxy refuses must be listed in NOT_YET with the field that the refusal must name.

    validate.py PATH_OF_WEIR_PROXY [--table]      --table prints the rows for docs/envoy-compatibility.md
"""

import glob
import os
import subprocess
import sys
import tempfile

from xds_envoy import find_envoy
from xds_lab import certificate

# What weir-proxy does not do yet, and what the refusal must name.
NOT_YET = {
    "connect-encapsulate": "tunneling_config", "dynamic-rest": "cluster_names", "filter-chain-matcher": "filter_chain_matcher",
    "freebind": "freebind", "internal-listener": "bootstrap_extensions", "local-ratelimit-route-descriptors": "rate_limits",
    "redis": "network filter", "route-matcher-tree": "matcher", "tracing-opentelemetry": "tracing", "tracing-zipkin": "tracing",
    **dict.fromkeys("""
        api-key-auth bandwidth-limit cache credential-injector csrf decompressor ext-authz ext-authz-http grpc-bridge grpc-web
        header-to-metadata ip-tagging jwt-authn lua odcds on-demand rate-limit set-metadata single-page-app tap
    """.split(), "http_filters[0]"),
}


def verdict(command, path):
    child = subprocess.run(command + ["--mode", "validate", "-c", path], capture_output=True, text=True, timeout=60)
    return child.returncode == 0, (child.stderr + child.stdout).strip()


def main():
    proxy, envoy = sys.argv[1], find_envoy()
    here = os.path.dirname(os.path.abspath(__file__))
    problems, rows = [], []
    with tempfile.TemporaryDirectory() as work:
        cert, key = certificate(work)
        for path in sorted(glob.glob(os.path.join(here, "../testdata/envoy/*.yaml"))):
            name = os.path.basename(path)[:-5]
            with open(path) as file:
                text = file.read().replace("CERT", cert).replace("KEY", key).replace("FILES", os.path.join(os.path.dirname(path), "files"))
            copy = os.path.join(work, name + ".yaml")
            with open(copy, "w") as out:
                out.write(text)
            theirs, their_text = verdict([envoy, "--use-dynamic-base-id", "-l", "error"], copy)
            ours, our_text = verdict([proxy], copy)
            reason = "" if ours else our_text.splitlines()[0].replace(copy, "").split("weir-proxy: ")[-1].lstrip(": ")
            rows.append(f"| {name} | {'takes' if theirs else 'refuses'} | {'takes' if ours else 'refuses'} | {reason[:230].replace('|', '/')} |")
            if name in NOT_YET and theirs and ours:
                problems.append(f"{name} is taken now: it is no longer for the list NOT_YET, nor refused in docs/envoy-compatibility.md")
            elif name in NOT_YET:
                if not (theirs and not ours and NOT_YET[name] in our_text):
                    problems.append(f"{name}: expected a refusal that names {NOT_YET[name]}: {our_text[:300]}")
            elif theirs != ours:
                problems.append(f"{name}: Envoy {theirs}, Weir {ours}\n  Envoy: {their_text[-300:]}\n  Weir: {our_text[:400]}")
    if "--table" in sys.argv:
        print("| configuration | Envoy 1.40 | weir-proxy | why refused |\n|---|---|---|---|")
        print("\n".join(rows))
    print("\n".join(problems))
    print(f"{len(rows)} configurations, {len(rows) - len(problems)} as expected, {len(problems)} not")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
