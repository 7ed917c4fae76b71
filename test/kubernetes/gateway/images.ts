/** What stands for the container images of the tests with gateways: this checkout's own program, the stock Envoy and the conformance suite's server. */
import { dirname } from "node:path";
import { findEnvoy, packageRoot } from "../../../src/app/envoy.ts";
import type { Image } from "../kubelet/container.ts";
import { toolBinary } from "../tools.ts";

/** `signalbox COMMAND…`, to which the container's arguments are added. */
export function signalboxImage(...command: readonly string[]): Image {
  return { command: ["/app/bin/signalbox", ...command], mounts: { "/app": packageRoot } };
}

/** Warnings and worse go to its log. */
export function envoyImage(): Image {
  return {
    command: ["/envoy/envoy", "--log-level", "warning", "--concurrency", "1"],
    mounts: { "/envoy": dirname(findEnvoy(process.env)) },
  };
}

export function echoImage(): Image {
  return { command: ["/tools/echo-basic"], mounts: { "/tools/echo-basic": toolBinary("echo-basic") } };
}
