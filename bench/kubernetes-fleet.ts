/**
 * The picker over a real API server with 10,000 pods of the size that engines' pods have: how soon it is ready, what it keeps resident, how soon a pod's
 * readiness reaches decisions; and how soon it is ready when the API server is late. Needs what `make test-k8s` builds.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Child, type EppPorts, startEppChild } from "../src/app/child.ts";
import { packageRoot } from "../src/app/envoy.ts";
import { connectExtProc, type ExtProc, requestBody, requestHeaders } from "../test/conformance/ext-proc-client.ts";
import { type ControlPlane, freePort, startControlPlane } from "../test/kubernetes/control-plane.ts";
import { installDefinitions } from "../test/kubernetes/definitions.ts";
import { createPoolNamespace, type PoolNamespace, poolSpec } from "../test/kubernetes/pool-namespace.ts";
import { podAddress, storePods } from "../test/kubernetes/stored-pods.ts";
import { type Context, type Measurement, type Run, repeat } from "./measurement.ts";

const pods = 10_000;
/** Listening sockets and connections of one process stay below common limits on open files. */
const enginesPerProcess = 5_000;
const readinessChanges = 200;
const deadlineMs = 120_000;
const labels = { app: "engine" };
const poolName = "pool";

async function startEngines(port: number): Promise<readonly ChildProcess[]> {
  const script = join(packageRoot, "test/kubernetes/answering-addresses.ts");
  const children: ChildProcess[] = [];
  for (let first = 0; first < pods; first += enginesPerProcess) {
    const args = [script, String(port), String(enginesPerProcess), String(first)];
    const child = spawn(process.execPath, args, { stdio: ["pipe", "pipe", "inherit"] });
    children.push(child);
    await once(child.stdout, "data");
  }
  return children;
}

function startPicker(plane: ControlPlane, namespace: string): Promise<Child<EppPorts>> {
  return startEppChild(
    [
      `--pool-name=${poolName}`,
      `--pool-namespace=${namespace}`,
      "--secure-serving=false",
      "--metrics-endpoint-auth=false",
      "--drain-timeout=0s",
      "--drain-grace=0s",
    ],
    { environment: { KUBECONFIG: plane.kubeconfig }, timeoutMs: deadlineMs },
  );
}

async function until(what: string, check: () => Promise<boolean>, everyMs = 5): Promise<void> {
  const end = performance.now() + deadlineMs;
  while (!(await check())) {
    if (performance.now() > end) throw new Error(`not within ${deadlineMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, everyMs));
  }
}

async function ready({ ready: { metricsPort } }: Child<EppPorts>): Promise<void> {
  await until("the picker is ready", async () => {
    const response = await fetch(`http://127.0.0.1:${metricsPort}/readyz`).catch(() => undefined);
    await response?.arrayBuffer();
    return response?.status === 200;
  });
}

function residentMiB(pid: number): number {
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  return Number(kib) / 1024;
}

/** Whether a request that may go nowhere else is sent to the address. */
async function isPicked(extProc: ExtProc, address: string): Promise<boolean> {
  const subset = [address];
  const [reply] = await extProc.exchange(
    [requestHeaders({ ":method": "POST" }, { subset }), requestBody('{"model":"m","prompt":"p"}', { subset })],
    1,
  );
  return reply?.kind === "requestHeaders";
}

function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(Math.floor(sorted.length * share), sorted.length - 1)] ?? Number.NaN;
}

/** From the API server's answer to a change until decisions follow it. */
async function readinessDelays(
  picker: Child<EppPorts>,
  place: PoolNamespace,
  port: number,
): Promise<readonly number[]> {
  const extProc = connectExtProc(picker.ready.grpcPort, false);
  const delays: number[] = [];
  try {
    for (let change = 0; change < readinessChanges; change++) {
      const index = (change >> 1) * 37;
      const isReady = change % 2 === 1;
      await place.setStatus(`engine-${index}`, { ips: [podAddress(index)], ready: isReady });
      const changedAtMs = performance.now();
      const address = `${podAddress(index)}:${port}`;
      await until("the change is followed", async () => (await isPicked(extProc, address)) === isReady, 0);
      delays.push(performance.now() - changedAtMs);
    }
  } finally {
    extProc.close();
  }
  return delays;
}

/** Seconds from the API server's first good answer to a picker that has been waiting for it. */
async function lateServer(plane: ControlPlane, namespace: string): Promise<number> {
  await plane.stopApiServer();
  const picker = await startPicker(plane, namespace);
  try {
    const starting = plane.startApiServer();
    starting.catch(() => {});
    await until("the API server answers", () =>
      plane.api.request({ path: "/readyz", timeoutMs: 1000 }).then(
        (text) => text === "ok",
        () => false,
      ),
    );
    const answeredAtMs = performance.now();
    await ready(picker);
    const seconds = (performance.now() - answeredAtMs) / 1000;
    await starting;
    return seconds;
  } finally {
    await picker.close();
  }
}

async function fleetOf(plane: ControlPlane, namespace: string, count: number, port: number): Promise<PoolNamespace> {
  const place = await createPoolNamespace(plane, namespace);
  await place.putPool(poolName, poolSpec(labels, port));
  const stored = Array.from({ length: count }, (_, i) => ({
    name: `engine-${i}`,
    ip: podAddress(i),
    ready: true,
    labels,
  }));
  await storePods(plane.etcd.url, namespace, stored);
  // Written behind its back: the API server has read all of them when it counts them.
  await until("the API server has the pods", async () => {
    const page = JSON.parse(await plane.api.request({ path: `/api/v1/namespaces/${namespace}/pods?limit=1` })) as {
      readonly metadata: { readonly remainingItemCount?: number };
    };
    return page.metadata.remainingItemCount === count - 1;
  });
  return place;
}

async function fleetRun(plane: ControlPlane, place: PoolNamespace, port: number): Promise<Run> {
  const startedAtMs = performance.now();
  const picker = await startPicker(plane, place.namespace);
  try {
    await ready(picker);
    const fleetSeconds = (performance.now() - startedAtMs) / 1000;
    const delays = await readinessDelays(picker, place, port);
    return {
      "fleet-ready-seconds": fleetSeconds,
      "fleet-resident": residentMiB(picker.pid),
      "readiness-p50": percentile(delays, 0.5),
      "readiness-p99": percentile(delays, 0.99),
    };
  } finally {
    await picker.close();
  }
}

async function coldStart(plane: ControlPlane, namespace: string): Promise<number> {
  const startedAtMs = performance.now();
  const picker = await startPicker(plane, namespace);
  try {
    await ready(picker);
    return (performance.now() - startedAtMs) / 1000;
  } finally {
    await picker.close();
  }
}

async function measure(context: Context): Promise<readonly Run[]> {
  if (!context.isOurs) return [];
  const plane = await startControlPlane();
  const port = await freePort();
  const engines = await startEngines(port);
  try {
    await installDefinitions(plane.api, "inference-extension", "llm-d-objectives", "inference-objectives");
    const fleet = await fleetOf(plane, "fleet", pods, port);
    await fleetOf(plane, "small", 100, port);
    return await repeat(context, async () => ({
      ...(await fleetRun(plane, fleet, port)),
      "cold-start-seconds": await coldStart(plane, "small"),
      "late-server-seconds": await lateServer(plane, "small"),
    }));
  } finally {
    for (const child of engines) child.kill("SIGKILL");
    await plane.close();
  }
}

export const kubernetesFleet: Measurement = {
  name: "kubernetes-fleet",
  what: "10,000 pods of a real API server",
  isLatency: true,
  figures: [
    { name: "fleet-ready-seconds", title: "10,000 pods: from the start of the process to ready", unit: "s", digits: 1 },
    { name: "fleet-resident", title: "10,000 pods: resident, all of them scraped", unit: "MiB", digits: 0 },
    { name: "readiness-p50", title: "a pod's readiness reaches decisions, median", unit: "ms", digits: 1 },
    { name: "readiness-p99", title: "the same, 99th percentile", unit: "ms", digits: 1 },
    { name: "cold-start-seconds", title: "100 pods: from the start of the process to ready", unit: "s", digits: 2 },
    {
      name: "late-server-seconds",
      title: "100 pods: from the API server's first answer to ready",
      unit: "s",
      digits: 2,
    },
  ],
  measure,
};
