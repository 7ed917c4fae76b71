/** Envoy Gateway without a cluster, over a stock Envoy: it reads its resources from a folder and runs Envoy as a process beside it. */
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findEnvoy } from "../../../src/app/envoy.ts";
import { eventually } from "../../stack.ts";
import type { ClusterObject } from "../cluster.ts";
import { type RunningProgram, startProgram } from "../kubelet/run-program.ts";
import { toolBinary } from "../tools.ts";

/** As the resources name it; the Envoy that is found stands for it. */
export const envoyVersion = "1.40.0";

export interface EnvoyGateway {
  close(): Promise<void>;
}

/** Resolves when something listens on the port, which the resources have to bring about. */
export async function startEnvoyGateway(resources: readonly ClusterObject[], port: number): Promise<EnvoyGateway> {
  const folder = await mkdtemp(join(tmpdir(), "signalbox-envoy-gateway-"));
  const at = (...path: readonly string[]): string => join(folder, ...path);
  let server: RunningProgram | undefined;
  const close = async (): Promise<void> => {
    // It ends its Envoy before itself.
    await server?.stop(10_000);
    await rm(folder, { recursive: true, force: true });
  };
  try {
    const binaries = at("data/envoy-versions", envoyVersion, "bin");
    for (const path of [at("resources"), at("config"), at("state"), at("run"), binaries]) {
      await mkdir(path, { recursive: true });
    }
    // Found there, nothing is fetched.
    await symlink(findEnvoy(process.env), join(binaries, "envoy"));
    await writeFile(at("resources/resources.yaml"), resources.map((object) => JSON.stringify(object)).join("\n---\n"));
    await writeFile(at("gateway.yaml"), JSON.stringify(configuration(at)));
    const common = { environment: { PATH: process.env["PATH"] ?? "", HOME: folder }, logFile: at("log"), folder };
    const binary = toolBinary("envoy-gateway");
    const certificates = await startProgram({
      ...common,
      command: [binary, "certgen", "--local", "--config-home", at("config")],
    });
    await certificates.exited;
    const running = await startProgram({ ...common, command: [binary, "server", "--config-path", at("gateway.yaml")] });
    server = running;
    await eventually(
      `Envoy Gateway listens on ${port}`,
      async () => {
        if (running.ended() !== undefined) throw new Error("Envoy Gateway ended");
        return await isOpen(port);
      },
      120_000,
    );
    return { close };
  } catch (error) {
    const kept = join(tmpdir(), `signalbox-envoy-gateway-${process.pid}.log`);
    await cp(at("log"), kept).catch(() => {});
    await close();
    throw new Error(`Envoy Gateway did not start; its log is ${kept}`, { cause: error });
  }
}

function configuration(at: (...path: readonly string[]) => string): object {
  return {
    apiVersion: "gateway.envoyproxy.io/v1alpha1",
    kind: "EnvoyGateway",
    gateway: { controllerName: "gateway.envoyproxy.io/gatewayclass-controller" },
    provider: {
      type: "Custom",
      custom: {
        resource: { type: "File", file: { paths: [at("resources")] } },
        infrastructure: {
          type: "Host",
          host: { configHome: at("config"), dataHome: at("data"), stateHome: at("state"), runtimeDir: at("run") },
        },
      },
    },
    extensionApis: { enableBackend: true },
  };
}

function isOpen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: "127.0.0.1", port });
    const settle = (open: boolean) => () => {
      socket.destroy();
      resolve(open);
    };
    socket.once("connect", settle(true));
    socket.once("error", settle(false));
  });
}
