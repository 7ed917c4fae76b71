#!/usr/bin/env python3
"""Writes a prefill-load table: how long the prefills of a model take on a rank, for a Signalbox picker to interpolate.

Needs AISimulate's aisimulate_core (what Dynamo's frontend asks) or, in its place, aiconfigurator_core 0.12, where it runs; the picker needs only the
table. Times are milliseconds of one prefill alone, by tokens to compute and tokens that are cached before them.
"""

import argparse
import importlib.metadata
import json
import math
import sys
from pathlib import Path

FORMAT = "signalbox-prefill-load-table"
REQUIRED = ("backend", "system", "model", "worker_type")
# Axes begin with so many points from each power of two to the next, and grow where a straight line between two points is not enough.
POINTS_PER_OCTAVE = 4
FIRST_PREFIX = 16
MOST_POINTS = 1024
# What lies between two points of one axis is compared at these places of the other.
PROBED_PREFIXES = (0, 1000, 30_000)
PROBED_TOKENS = (1, 100, 2000, 20_000)
# Names in AISimulate's configuration and in that of aiconfigurator_core 0.12; what is not here, only AISimulate knows.
OLDER_NAMES = {
    "backend": "backend",
    "backend_version": "backend_version",
    "system": "system_name",
    "model": "model_name",
    "tp": "tp_size",
    "tp_size": "tp_size",
    "pp": "pp_size",
    "pp_size": "pp_size",
    "attention_dp": "attention_dp_size",
    "attention_dp_size": "attention_dp_size",
    "moe_tp_size": "moe_tp_size",
    "moe_ep_size": "moe_ep_size",
    "nextn": "nextn",
}


class Refusal(Exception):
    """What the user is to be told, without a traceback."""


def read_config(text):
    """A mapping from JSON, or from a file with JSON or YAML; worker_type is "aggregated" unless said."""
    if text.lstrip().startswith("{"):
        config = json.loads(text)
    else:
        content = Path(text).read_text(encoding="utf-8")
        try:
            config = json.loads(content)
        except ValueError:
            import yaml

            config = yaml.safe_load(content)
    if not isinstance(config, dict):
        raise Refusal("the estimator's configuration must be an object")
    config = {"worker_type": "aggregated", **config}
    missing = [name for name in REQUIRED if not config.get(name)]
    if missing:
        raise Refusal("the estimator's configuration lacks " + ", ".join(missing))
    return config


def open_estimator(config):
    """The model of forward passes and the name of the package that it comes from."""
    try:
        from aisimulate_core.sdk import ForwardPassPerfModelConfig, RustForwardPassPerfModel

        package, settings = "aisimulate_core", ForwardPassPerfModelConfig(**config).to_dict()
    except ModuleNotFoundError as absent:
        if absent.name not in ("aisimulate_core", "aisimulate_core.sdk"):
            raise
        try:
            from aiconfigurator_core.sdk import RustForwardPassPerfModel
        except ModuleNotFoundError as absent_too:
            if absent_too.name not in ("aiconfigurator_core", "aiconfigurator_core.sdk"):
                raise
            raise Refusal("neither aisimulate_core nor aiconfigurator_core is installed here") from None
        package, settings = "aiconfigurator_core", older_settings(config)
    model = RustForwardPassPerfModel.best_available(settings)
    diagnostics = model.diagnostics()
    if diagnostics.get("readiness") != "ready":
        why = diagnostics.get("last_warning") or "it would have to observe a running engine first"
        raise Refusal(f"{package} has no estimate for this configuration: {why}")
    mode = (diagnostics.get("provenance") or {}).get("selected_estimation_mode")
    if mode == "fpm_interpolation" and (config.get("nextn") or config.get("speculation")):
        raise Refusal("this estimator's interpolation does not know speculative decoding")
    return model, f"{package} {version_of(package)}"


def older_settings(config):
    unknown = sorted(set(config) - set(OLDER_NAMES) - {"worker_type"})
    if unknown:
        raise Refusal("aiconfigurator_core does not know " + ", ".join(unknown))
    named = {OLDER_NAMES[name]: value for name, value in config.items() if name in OLDER_NAMES and value is not None}
    return {"schema_version": 1, "tp_size": 1, "pp_size": 1, **named}


def version_of(package):
    for name in (package, package.removesuffix("_core")):
        try:
            return importlib.metadata.version(name.replace("_", "-"))
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"


class Predictions:
    """Milliseconds by tokens and prefix, each asked for once."""

    def __init__(self, model):
        self._model = model
        self._known = {}

    def of(self, tokens, prefix):
        known = self._known.get((tokens, prefix))
        if known is None:
            known = self._known[(tokens, prefix)] = self._ask(tokens, prefix)
        return known

    def _ask(self, tokens, prefix):
        scheduled = {"num_prefill_requests": 1, "sum_prefill_tokens": tokens, "sum_prefill_kv_tokens": prefix}
        predicted = self._model.estimate_forward_pass_time_ms({"scheduled_requests": scheduled})
        if predicted is None or not math.isfinite(predicted) or predicted < 0:
            raise Refusal(f"no estimate for {tokens} tokens after a prefix of {prefix}")
        return predicted


def logarithmic(first, last):
    """Whole numbers from first to last, evenly spaced by their logarithm."""
    steps = math.ceil(POINTS_PER_OCTAVE * math.log2(last / first))
    return sorted({min(last, round(first * 2 ** (step / POINTS_PER_OCTAVE))) for step in range(steps + 1)})


def refined(axis, curves, tolerance):
    """The axis with more points, so that straight lines between them are off by no more than the tolerance: where a curve leaps, the leap lies
    between two points that follow each other. The curves are functions of the axis's value."""
    done, todo = [axis[0]], axis[:0:-1]
    while todo:
        low, high = done[-1], todo[-1]
        if high - low > 1 and len(done) + len(todo) < MOST_POINTS and is_bent(low, high, curves, tolerance):
            todo.append((low + high) // 2)
        else:
            done.append(todo.pop())
    return done


def is_bent(low, high, curves, tolerance):
    for curve in curves:
        first, last = curve(low), curve(high)
        for eighth in range(1, 8):
            between = low + (high - low) * eighth // 8
            real = curve(between)
            straight = first + (last - first) * (between - low) / (high - low)
            if abs(straight - real) > tolerance * real:
                return True
    return False


def table_of(predictions, max_tokens, tolerance):
    """Axes of tokens to compute and of cached tokens, and a row of milliseconds for each of the former."""
    tokens = refined(
        logarithmic(1, max_tokens),
        [lambda value, prefix=prefix: predictions.of(value, prefix) for prefix in PROBED_PREFIXES],
        tolerance,
    )
    first = min(FIRST_PREFIX, max_tokens)
    prefixes = refined(
        [0, *logarithmic(first, max_tokens)],
        [lambda value, count=count: predictions.of(count, value) for count in PROBED_TOKENS if count <= max_tokens],
        tolerance,
    )
    return tokens, prefixes, [[rounded(predictions.of(count, prefix)) for prefix in prefixes] for count in tokens]


def rounded(milliseconds):
    return float(f"{milliseconds:.6g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="AISimulate's configuration: JSON, or a file with JSON or YAML")
    parser.add_argument("--output", required=True, help="where the table goes")
    parser.add_argument("--max-tokens", type=int, default=1 << 20, help="the axes end here (default 1048576)")
    parser.add_argument(
        "--tolerance", type=float, default=0.005, help="share by which a straight line may be off (default 0.005)"
    )
    arguments = parser.parse_args()
    if arguments.max_tokens < 2 or not 0 < arguments.tolerance < 1:
        parser.error("--max-tokens must be at least 2, and --tolerance between 0 and 1")
    try:
        config = read_config(arguments.config)
        model, estimator = open_estimator(config)
        tokens, prefixes, milliseconds = table_of(Predictions(model), arguments.max_tokens, arguments.tolerance)
    except (Refusal, OSError, ValueError) as error:
        sys.exit(f"prefill-load-table: {error}")
    table = {
        "format": FORMAT,
        "version": 1,
        "estimator": estimator,
        "config": config,
        "tokens": tokens,
        "prefixTokens": prefixes,
        "milliseconds": milliseconds,
    }
    Path(arguments.output).write_text(json.dumps(table, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
