/**
 * Starts another picker with the reference's command line, from PEER_EPP: endpoints come from a file, ports are free ones. PEER_EPP_ARGS
 * replaces the arguments; {config}, {endpoints}, {grpcPort}, {healthPort} and {metricsPort} in it are filled in.
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { pickerCpu } from "./processors.ts";
import { type PickerStart, startProcess } from "./rig.ts";

const referenceArgs = [
  "--pool-name=bench --pool-namespace=default --config-file={config} --secure-serving=false",
  "--grpc-port={grpcPort} --grpc-health-port={healthPort} --metrics-port={metricsPort}",
].join(" ");

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  await Promise.all(servers.map((server) => new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))));
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: "127.0.0.1", port });
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
}

async function waitUntilServing(port: number, isGone: () => boolean, deadlineMs = 30_000): Promise<void> {
  for (const end = performance.now() + deadlineMs; performance.now() < end && !isGone(); ) {
    if (await accepts(port)) {
      // It listens before its first scrapes are in.
      await new Promise((resolve) => setTimeout(resolve, 2_000));
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`the peer does not listen on port ${port}`);
}

export function peerName(binary: string): string {
  return `Peer (${basename(binary)})`;
}

export function createPeerStart(binary: string, template: string | undefined): PickerStart {
  return async ({ endpoints }) => {
    const scratch = await mkdtemp(join(tmpdir(), "signalbox-bench-peer-"));
    const [endpointsFile, configFile] = [join(scratch, "endpoints.yaml"), join(scratch, "config.yaml")];
    await writeFile(
      endpointsFile,
      `endpoints:\n${endpoints.map((port, i) => `  - { name: "server-${i}", address: "127.0.0.1", port: "${port}" }\n`).join("")}`,
    );
    await writeFile(
      configFile,
      [
        "apiVersion: llm-d.ai/v1alpha1",
        "kind: EndpointPickerConfig",
        "plugins:",
        `  - { type: file-discovery, name: file-discovery, parameters: { path: "${endpointsFile}", watchFile: false } }`,
        "dataLayer: { discovery: { pluginRef: file-discovery } }",
        "",
      ].join("\n"),
    );
    const [grpcPort = 0, healthPort = 0, metricsPort = 0] = await freePorts(3);
    const values: Readonly<Record<string, string | number>> = {
      config: configFile,
      endpoints: endpointsFile,
      grpcPort,
      healthPort,
      metricsPort,
    };
    const args = (template ?? referenceArgs)
      .split(/\s+/)
      .filter((text) => text !== "")
      .map((text) => text.replaceAll(/\{(\w+)\}/g, (whole, key: string) => String(values[key] ?? whole)));
    const peer = startProcess(pickerCpu, [binary, ...args]);
    const close = async (): Promise<void> => {
      await peer.close();
      await rm(scratch, { recursive: true, force: true });
    };
    try {
      await waitUntilServing(grpcPort, () => peer.child.exitCode !== null);
    } catch (error) {
      await close();
      throw error;
    }
    return { name: peerName(binary), pid: peer.pid, port: grpcPort, process: peer, close };
  };
}
