/**
 * Two pickers behind a real Envoy that checks their readiness by gRPC, load running, with leader election and with both active: one that is asked to
 * end loses no request, and one that is killed loses at most those it was carrying.
 */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { credentials } from "@grpc/grpc-js";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { parse, stringify } from "yaml";
import { type Child, type EppPorts, startWorkersChild } from "../../src/app/child.ts";
import { findEnvoy, packageRoot, type RunningEnvoy, startEnvoy } from "../../src/app/envoy.ts";
import { HealthClient, HealthCheckResponse_ServingStatus as serving } from "../../src/gen/health.ts";
import { startLoad, tally } from "../e2e/load.ts";
import { defaultModel, eventually } from "../stack.ts";
import { type ControlPlane, freePort, startControlPlane } from "./control-plane.ts";
import { installDefinitions } from "./definitions.ts";
import { grantPickerRights, pickerAccount, sampleOf, startPickerPod } from "./picker-pod.ts";
import { createPoolNamespace, type PoolNamespace, poolSpec } from "./pool-namespace.ts";

let plane: ControlPlane;
let count = 0;
const open: { close(): Promise<void> }[] = [];
/** Each takes less than a minute where nothing else runs. */
const limitMs = 300_000;

beforeAll(async () => {
  plane = await startControlPlane();
  await installDefinitions(plane.api, "inference-extension");
}, 120_000);
afterAll(async () => {
  await plane?.close();
});
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close();
}, 60_000);

const app = { app: "vllm" };
/** Requests under way at once. */
const concurrency = 8;

interface Replica {
  readonly address: string;
  readonly child: Child<EppPorts>;
}

interface Site {
  readonly place: PoolNamespace;
  readonly envoy: RunningEnvoy;
  start(podName: string, address: string): Promise<Replica>;
}

interface EnvoyDocument {
  readonly static_resources: {
    readonly listeners: readonly {
      readonly filter_chains: readonly {
        readonly filters: readonly { readonly typed_config: { readonly http_filters: readonly ExtProcFilter[] } }[];
      }[];
    }[];
    readonly clusters: readonly (Record<string, unknown> & { readonly name: string })[];
  };
}
interface ExtProcFilter {
  readonly name: string;
  readonly typed_config: { readonly grpc_service?: Record<string, unknown> };
}

/** The full-duplex configuration with two pickers, health checks, and another try elsewhere where a picker cannot be reached. */
async function envoyTemplate(folder: string, addresses: readonly string[], healthPort: number): Promise<string> {
  const text = await readFile(join(packageRoot, "deploy/envoy/full-duplex.yaml"), "utf8");
  const document = parse(text) as EnvoyDocument;
  const filters = document.static_resources.listeners
    .flatMap((listener) => listener.filter_chains)
    .flatMap((chain) => chain.filters)
    .flatMap((filter) => filter.typed_config.http_filters);
  for (const { typed_config } of filters) {
    if (typed_config.grpc_service === undefined) continue;
    typed_config.grpc_service["retry_policy"] = {
      // Half a second of tries: longer than a busy Envoy takes to see that the only healthy picker is dead.
      num_retries: 10,
      retry_back_off: { base_interval: "0.005s", max_interval: "0.25s" },
      retry_on: "connect-failure,refused-stream,reset",
      retry_host_predicate: [
        {
          name: "envoy.retry_host_predicates.previous_hosts",
          typed_config: {
            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
          },
        },
      ],
      // The dead one has the fewest requests and is chosen three times in four.
      host_selection_retry_max_attempts: 64,
    };
  }
  for (const cluster of document.static_resources.clusters) {
    if (cluster.name !== "signalbox") continue;
    cluster["health_checks"] = [
      {
        timeout: "1s",
        interval: "0.2s",
        no_traffic_interval: "0.2s",
        unhealthy_threshold: 2,
        healthy_threshold: 1,
        grpc_health_check: { service_name: "readiness" },
      },
    ];
    // Until a check has failed, the dead one would be the only healthy one: with the first broken stream it is out, and both are tried.
    cluster["outlier_detection"] = {
      split_external_local_origin_errors: true,
      consecutive_local_origin_failure: 1,
      consecutive_gateway_failure: 1,
      enforcing_consecutive_gateway_failure: 100,
      interval: "1s",
      base_ejection_time: "1s",
      max_ejection_percent: 100,
    };
    // Envoy's own bound is three retries at once, which the first moment after a crash exceeds.
    const most = 40_000;
    cluster["circuit_breakers"] = {
      thresholds: [{ max_connections: most, max_pending_requests: most, max_requests: most, max_retries: most }],
    };
    cluster["load_assignment"] = {
      cluster_name: "signalbox",
      endpoints: [
        {
          lb_endpoints: addresses.map((address) => ({
            endpoint: {
              address: { socket_address: { address, port_value: 9002 } },
              health_check_config: { port_value: healthPort },
            },
          })),
        },
      ],
    };
  }
  const file = join(folder, "envoy.yaml");
  await writeFile(file, stringify(document));
  return file;
}

const election = ["--ha-enable-leader-election"];

/** Where both decide, and each knows what the other has under way. */
async function bothActive(): Promise<readonly string[]> {
  const port = await freePort();
  return [`--peer-port=${port}`, `--peers=127.0.0.1:${port},127.0.0.2:${port}`];
}

async function site(args: readonly string[]): Promise<Site> {
  const folder = await mkdtemp(join(tmpdir(), "signalbox-handover-"));
  open.push({ close: () => rm(folder, { recursive: true, force: true }) });
  const place = await createPoolNamespace(plane, `handover-${++count}`);
  await grantPickerRights(plane, place.namespace, "signalbox-epp-leader-election");
  const workers = await startWorkersChild(2, ["--time-scale=1000"]);
  open.push(workers);
  const ports = workers.ready.map(({ hostPort }) => Number(hostPort.split(":")[1]));
  await place.putPool("pool", poolSpec(app, ...ports));
  await place.createPod("engine", { labels: app, ips: ["127.0.0.1"] });
  const account = await plane.accountFolder(place.namespace, pickerAccount);
  const [grpcPort, healthPort] = [await freePort(), await freePort()];
  const envoy = await startEnvoy({
    mode: "full-duplex",
    template: await envoyTemplate(folder, ["127.0.0.1", "127.0.0.2"], healthPort),
    binary: findEnvoy(process.env),
    picker: { port: grpcPort, tls: false },
    listenPort: 0,
  });
  open.push(envoy);
  return {
    place,
    envoy,
    async start(podName, address) {
      const child = await startPickerPod({
        plane,
        namespace: place.namespace,
        podName,
        account,
        args: [
          "--pool-name=pool",
          "--metrics-endpoint-auth=false",
          "--secure-serving=false",
          `--bind-address=${address}`,
          `--grpc-port=${grpcPort}`,
          `--grpc-health-port=${healthPort}`,
          ...args,
        ],
      });
      open.push(child);
      return { child, address };
    },
  };
}

const isReady = async ({ child, address }: Replica): Promise<boolean> =>
  (await fetch(`http://${address}:${child.ready.metricsPort}/readyz`)).ok;

const leads = async ({ child, address }: Replica, namespace: string): Promise<boolean> =>
  (await sampleOf(child, `leader_election_master_status{name="epp-${namespace}-pool.llm-d.ai"}`, address)) === 1;

/** Endpoints with fresh metrics. */
const scraped = ({ child, address }: Replica): Promise<number | undefined> =>
  sampleOf(child, 'llm_d_epp_ready_endpoints{name="pool"}', address);

const readinessNames = ["", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor"];

const ofReadiness = (status: string): Readonly<Record<string, string>> =>
  Object.fromEntries(readinessNames.map((name) => [name, status]));

async function statuses({ child, address }: Replica): Promise<Readonly<Record<string, string>>> {
  const client = new HealthClient(`${address}:${child.ready.healthPort}`, credentials.createInsecure());
  const statusOf = (service: string): Promise<string> =>
    new Promise((resolve) => {
      client.check({ service }, (error, response) => {
        const name = Object.entries(serving).find(([, value]) => value === response?.status)?.[0];
        resolve(error === null ? (name ?? "") : error.message);
      });
    });
  const names = ["liveness", ...readinessNames];
  const answers = await Promise.all(names.map(async (name) => [name, await statusOf(name)] as const));
  client.close();
  return Object.fromEntries(answers);
}

/** Requests of each endpoint, its own and those of its peers. */
const loads = async ({ child, address }: Replica): Promise<readonly number[]> => {
  const answer = await fetch(`http://${address}:${child.ready.metricsPort}/debug/endpoints`);
  const endpoints = (await answer.json()) as readonly { readonly load: { readonly requests: number } }[];
  return endpoints.map(({ load: { requests } }) => requests);
};

/** Decisions it made. */
const decided = async ({ child, address }: Replica): Promise<number> =>
  ((await (await fetch(`http://${address}:${child.ready.metricsPort}/debug/decisions?limit=100`)).json()) as unknown[])
    .length;

function load({ envoy }: Site) {
  const running = startLoad({
    url: `${envoy.url}/v1/chat/completions`,
    concurrency,
    body: () => JSON.stringify({ model: defaultModel, max_tokens: 2, messages: [{ role: "user", content: "hi" }] }),
  });
  open.push({ close: () => running.stop() });
  return running;
}

describe("two pickers of one pool", () => {
  it(
    "hand over without a failed request when the leader is asked to end",
    async () => {
      const its = await site([...election, "--drain-timeout=3s"]);
      const { namespace } = its.place;
      const first = await its.start("picker-1", "127.0.0.1");
      await eventually(
        "the first leads and is ready",
        async () => (await leads(first, namespace)) && isReady(first),
        30_000,
      );
      const second = await its.start("picker-2", "127.0.0.2");
      await eventually("the second has scraped both endpoints", async () => (await scraped(second)) === 2, 30_000);
      expect([await isReady(second), await leads(second, namespace)]).toEqual([false, false]);
      expect(await statuses(first)).toEqual({ ...ofReadiness("SERVING"), liveness: "SERVING" });
      expect(await statuses(second)).toEqual({ ...ofReadiness("NOT_SERVING"), liveness: "SERVING" });
      const running = load(its);
      await eventually("traffic", () => Promise.resolve(running.outcomes.length > 100), 30_000);
      expect([(await decided(first)) > 0, await decided(second)]).toEqual([true, 0]);
      first.child.signal("SIGTERM");
      await eventually(
        "the second leads and is ready",
        async () => (await leads(second, namespace)) && isReady(second),
        30_000,
      );
      expect(await first.child.exited).toBe(0);
      const endedAt = running.outcomes.length;
      await eventually("traffic goes on", () => Promise.resolve(running.outcomes.length > endedAt + 100), 30_000);
      await running.stop();
      expect(tally(running.outcomes)).toEqual({ 200: running.outcomes.length });
      expect(await decided(second)).toBeGreaterThan(0);
    },
    limitMs,
  );

  it(
    "lose no request but those under way when the leader is killed, and the other leads once the lease is over",
    async () => {
      const its = await site(election);
      const { namespace } = its.place;
      const first = await its.start("picker-1", "127.0.0.1");
      await eventually(
        "the first leads and is ready",
        async () => (await leads(first, namespace)) && isReady(first),
        30_000,
      );
      const second = await its.start("picker-2", "127.0.0.2");
      await eventually("the second has scraped both endpoints", async () => (await scraped(second)) === 2, 30_000);
      const running = load(its);
      await eventually("traffic", () => Promise.resolve(running.outcomes.length > 100), 30_000);
      const killedAtMs = performance.now();
      first.child.signal("SIGKILL");
      await first.child.exited;
      const goneAtMs = performance.now();
      await eventually("the second leads", () => leads(second, namespace), 60_000);
      const tookMs = performance.now() - killedAtMs;
      const ledAt = running.outcomes.length;
      await eventually("traffic goes on", () => Promise.resolve(running.outcomes.length > ledAt + 100), 30_000);
      await running.stop();
      const failed = running.outcomes.filter(({ status }) => status !== 200);
      expect(failed.filter(({ startedAtMs }) => startedAtMs > goneAtMs)).toEqual([]);
      expect(failed.length).toBeLessThanOrEqual(concurrency);
      // Not before the lease is over, which was renewed at most two seconds before.
      expect(tookMs).toBeGreaterThan(12_000);
      expect(await isReady(second)).toBe(true);
    },
    limitMs,
  );

  it(
    "go on serving while the API server is away, though neither leads for long, and one leads when it is back",
    async () => {
      const its = await site(election);
      const { namespace } = its.place;
      const first = await its.start("picker-1", "127.0.0.1");
      const second = await its.start("picker-2", "127.0.0.2");
      const leader = (): Promise<Replica | undefined> =>
        leads(first, namespace).then(async (is) =>
          is ? first : (await leads(second, namespace)) ? second : undefined,
        );
      const before = await eventually(
        "one leads and is ready",
        async () => {
          const found = await leader();
          return found !== undefined && (await isReady(found)) ? found : undefined;
        },
        30_000,
      );
      for (const one of [first, second]) {
        await eventually("both endpoints are scraped", async () => (await scraped(one)) === 2, 30_000);
      }
      const running = load(its);
      await eventually("traffic", () => Promise.resolve(running.outcomes.length > 100), 30_000);
      await plane.stopApiServer();
      await eventually("nobody leads", async () => !(await isReady(before)) && (await leader()) === undefined, 60_000);
      const sofar = running.outcomes.length;
      await eventually("traffic goes on", () => Promise.resolve(running.outcomes.length > sofar + 100), 30_000);
      await plane.startApiServer();
      await eventually("one leads", async () => (await leader()) !== undefined, 60_000);
      await running.stop();
      expect(tally(running.outcomes)).toEqual({ 200: running.outcomes.length });
    },
    limitMs,
  );

  it(
    "take over from each other where both are active: none fails when one is asked to end, and few when one is killed",
    async () => {
      const its = await site([...(await bothActive()), "--drain-timeout=3s"]);
      const [first, second] = [await its.start("picker-1", "127.0.0.1"), await its.start("picker-2", "127.0.0.2")];
      for (const one of [first, second]) {
        await eventually("it is ready, with both endpoints", async () => {
          return (await isReady(one)) && (await scraped(one)) === 2;
        });
      }
      const running = load(its);
      const traffic = (more: number): Promise<unknown> => {
        const sofar = running.outcomes.length;
        return eventually("traffic goes on", () => Promise.resolve(running.outcomes.length > sofar + more), 30_000);
      };
      for (const one of [first, second]) {
        await eventually("it decides", async () => (await decided(one)) > 0, 30_000);
      }
      first.child.signal("SIGTERM");
      expect(await first.child.exited).toBe(0);
      await traffic(100);
      // Another pod in its place is told what is under way before it decides, and takes its part again.
      const third = await its.start("picker-3", "127.0.0.1");
      await eventually("it decides", async () => (await decided(third)) > 0, 30_000);
      await traffic(100);
      expect(tally(running.outcomes)).toEqual({ 200: running.outcomes.length });

      second.child.signal("SIGKILL");
      await second.child.exited;
      const goneAtMs = performance.now();
      await traffic(300);
      await running.stop();
      const failed = running.outcomes.filter(({ status }) => status !== 200);
      expect(failed.filter(({ startedAtMs }) => startedAtMs > goneAtMs)).toEqual([]);
      expect(failed.length).toBeLessThanOrEqual(concurrency);
      // What the dead one had under way is forgotten with it: nothing stays booked.
      await eventually("nothing is under way", async () => {
        const endpoints = await loads(third);
        return endpoints.length === 2 && endpoints.every((requests) => requests === 0);
      });
    },
    limitMs,
  );
});
