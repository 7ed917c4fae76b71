/** An Envoy straight to one model server, without a picker: what a request through a picker is compared with. Otherwise configured as deploy/envoy/full-duplex.yaml. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parse, stringify } from "yaml";
import { packageRoot } from "../src/app/envoy.ts";
import { startProcess } from "./rig.ts";

interface Config {
  admin: { address: { socket_address: { port_value: number } } };
  static_resources: {
    listeners: {
      address: { socket_address: { port_value: number } };
      filter_chains: { filters: { typed_config: { http_filters: { name: string }[] } }[] }[];
    }[];
    clusters: { name: string }[];
  };
}

async function configuration(port: number): Promise<string> {
  const config = parse(await readFile(join(packageRoot, "deploy/envoy/full-duplex.yaml"), "utf8")) as Config;
  config.admin.address.socket_address.port_value = 0;
  for (const listener of config.static_resources.listeners) {
    listener.address.socket_address.port_value = 0;
    for (const { typed_config } of listener.filter_chains.flatMap((chain) => chain.filters)) {
      typed_config.http_filters = typed_config.http_filters.filter(
        ({ name }) => name !== "envoy.filters.http.ext_proc",
      );
    }
  }
  const server = {
    name: "model_servers",
    type: "STATIC",
    connect_timeout: "5s",
    load_assignment: {
      cluster_name: "model_servers",
      endpoints: [
        { lb_endpoints: [{ endpoint: { address: { socket_address: { address: "127.0.0.1", port_value: port } } } }] },
      ],
    },
  };
  config.static_resources.clusters = [server];
  return stringify(config);
}

async function listenerUrl(adminFile: string): Promise<string | undefined> {
  try {
    const admin = `http://${(await readFile(adminFile, "utf8")).trim()}`;
    const listeners = await (await fetch(`${admin}/listeners?format=json`)).json();
    const { listener_statuses: statuses } = listeners as {
      listener_statuses?: { local_address: { socket_address: { address: string; port_value: number } } }[];
    };
    const address = statuses?.[0]?.local_address.socket_address;
    return address && `http://${address.address}:${address.port_value}`;
  } catch {
    // Not up yet.
    return undefined;
  }
}

export async function startDirectEnvoy(
  binary: string,
  cpus: string,
  port: number,
): Promise<{ readonly url: string; close(): Promise<void> }> {
  const scratch = await mkdtemp(join(tmpdir(), "signalbox-bench-envoy-"));
  const [file, adminFile] = [join(scratch, "envoy.yaml"), join(scratch, "admin")];
  await writeFile(file, await configuration(port));
  const own = ["--disable-hot-restart", "--concurrency", "1", "-l", "warning"];
  const envoy = startProcess(cpus, [binary, "-c", file, "--admin-address-path", adminFile, ...own]);
  const close = async (): Promise<void> => {
    await envoy.close();
    await rm(scratch, { recursive: true, force: true });
  };
  for (const end = performance.now() + 20_000; performance.now() < end; ) {
    const url = await listenerUrl(adminFile);
    if (url !== undefined) return { url, close };
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await close();
  throw new Error("the Envoy without a picker did not start");
}
