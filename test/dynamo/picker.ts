/**
 * The picker and a real Envoy before a stack of Dynamo, with the configurations of deploy/dynamo as they are (ports apart), and what the picker
 * says of its plans and books.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parse, stringify } from "yaml";
import { type Child, type EppPorts, startEppChild } from "../../src/app/child.ts";
import { type EnvoyMode, findEnvoy, packageRoot, startEnvoy } from "../../src/app/envoy.ts";
import { eventually } from "../stack.ts";
import type { DynamoStack } from "./stack.ts";

export interface GatewayOptions {
  readonly layout?: "aggregated" | "disaggregated";
  /** One of deploy/envoy instead of deploy/dynamo's. */
  readonly mode?: EnvoyMode;
  /** Parameters besides those of deploy/dynamo. */
  readonly router?: Readonly<Record<string, unknown>>;
  readonly discovery?: Readonly<Record<string, unknown>>;
  readonly environment?: Readonly<Record<string, string>>;
  readonly pickerArgs?: readonly string[];
}

/** A leg of a plan in the decision log. */
export interface LegView {
  readonly workerId: string;
  readonly dpRank: number;
  readonly cachedTokens: number;
  readonly deviceBlocks: number;
}

export interface Decision {
  readonly requestId: string;
  readonly model: string;
  /** ISO 8601, when its headers came. */
  readonly at: string;
  readonly decisionMs: number | null;
  readonly plan?: {
    readonly mode: "aggregated" | "disaggregated";
    readonly bookingId: string;
    readonly promptTokens: number;
    readonly prefill?: LegView;
    readonly decode: LegView;
  };
  readonly outcome: { readonly kind: string };
  /** Null while it is served. */
  readonly end: { readonly kind: string; readonly status?: number; readonly durationMs: number | null } | null;
}

interface LoadView {
  readonly activeRequests: number;
  readonly activePrefillTokens: number;
  readonly activeDecodeBlocks: number;
}

/** One worker set in /debug/plugins/state. */
export interface SetState {
  readonly set: string;
  readonly isReady: boolean;
  readonly suspects: readonly string[];
  readonly router: {
    readonly topology: string;
    readonly bookings: number;
    readonly loads: Readonly<Record<"prefill" | "decode", readonly LoadView[]>>;
    readonly queue: readonly { readonly requests: number }[];
    readonly counters: Readonly<Record<string, number>>;
    readonly workers: readonly { readonly isSuspect: boolean }[];
  };
  readonly events: Readonly<Record<string, unknown>> | null;
  readonly replicas: Readonly<Record<string, unknown>>;
}

export interface Gateway {
  /** Base URL of Envoy. */
  readonly url: string;
  /** The picker that runs now. */
  readonly picker: Child<EppPorts>;
  /** On the same ports; ready when it resolves. "SIGKILL": without a drain. */
  restartPicker(signal?: "SIGTERM" | "SIGKILL"): Promise<void>;
  /** The decisions kept, newest first. */
  decisions(limit?: number): Promise<readonly Decision[]>;
  decisionOf(requestId: string): Promise<Decision>;
  sets(): Promise<readonly SetState[]>;
  /** Resolves when nothing is booked, queued or counted on any worker; fails when that does not come to be, or a booking was ended by age. */
  idle(): Promise<void>;
  close(): Promise<void>;
}

const readyWithinMs = 20_000;

export async function startGateway(stack: DynamoStack, options: GatewayOptions = {}): Promise<Gateway> {
  const scratch = mkdtempSync(join(tmpdir(), "signalbox-gateway-"));
  const open: { close(): Promise<void> }[] = [];
  const close = async (): Promise<void> => {
    for (let last = open.pop(); last !== undefined; last = open.pop()) await last.close();
    rmSync(scratch, { recursive: true, force: true });
  };
  try {
    const file = join(scratch, "epp.yaml");
    writeFileSync(file, configurationOf(stack, options));
    const args = [
      `--config-file=${file}`,
      "--drain-timeout=0s",
      "--drain-grace=5s",
      "--decision-log-size=5000",
      ...(options.pickerArgs ?? []),
    ];
    const environment = {
      ...stack.environment,
      DYN_TCP_RESPONSE_STREAM_HOST: "127.0.0.1",
      DYN_EVENT_PLANE_HOST: "127.0.0.1",
      ...options.environment,
    };
    let picker = await startEppChild(args, { environment });
    open.push({ close: () => picker.close() });
    const ports = picker.ready;
    const admin = `http://127.0.0.1:${ports.metricsPort}`;
    const isReady = async (): Promise<boolean> => (await fetch(`${admin}/readyz`)).ok;
    const envoy = await startEnvoy({
      mode: options.mode ?? "full-duplex",
      ...(options.mode === undefined ? { template: join(packageRoot, "deploy/dynamo/envoy.yaml") } : {}),
      binary: findEnvoy(process.env),
      picker: { port: ports.grpcPort, tls: true },
      listenPort: 0,
    });
    open.push(envoy);
    const debug = async <Answer>(path: string): Promise<Answer> =>
      (await (await fetch(`${admin}/debug/${path}`)).json()) as Answer;
    const decisions = debug<readonly Decision[]>;
    const sets = async (): Promise<readonly SetState[]> =>
      (await debug<Readonly<Record<string, { readonly sets: readonly SetState[] }>>>("plugins/state"))[
        "dynamo-prefill-router"
      ]?.sets ?? [];
    await eventually("the picker is ready", isReady, readyWithinMs);
    return {
      url: envoy.url,
      get picker() {
        return picker;
      },
      async restartPicker(signal = "SIGTERM") {
        picker.signal(signal);
        await picker.close(10_000);
        picker = await startEppChild(
          [
            ...args,
            `--grpc-port=${ports.grpcPort}`,
            `--grpc-health-port=${ports.healthPort}`,
            `--metrics-port=${ports.metricsPort}`,
          ],
          { environment },
        );
        await eventually("the picker is ready again", isReady, readyWithinMs);
      },
      decisions: (limit = 1_000) => decisions(`decisions?limit=${limit}`),
      async decisionOf(requestId) {
        const [decision] = await decisions(`decisions/${requestId}`);
        if (decision === undefined) throw new Error(`no decision about ${requestId}`);
        return decision;
      },
      sets,
      async idle() {
        let left: readonly string[] = [];
        await eventually("nothing is booked", async () => {
          left = (await sets()).flatMap(leftOver);
          return left.length === 0;
        }).catch((error: unknown) => {
          throw new Error(`bookings are left:\n${left.join("\n")}`, { cause: error });
        });
        for (const { router } of await sets()) {
          if (router.counters["reaped"] !== 0) throw new Error(`${router.counters["reaped"]} bookings ended by age`);
        }
      },
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function configurationOf(stack: DynamoStack, options: GatewayOptions): string {
  const file = join(packageRoot, "deploy/dynamo", `${options.layout ?? "aggregated"}.yaml`);
  const config = parse(readFileSync(file, "utf8")) as {
    readonly plugins: { readonly type: string; parameters?: Readonly<Record<string, unknown>> }[];
  };
  for (const plugin of config.plugins) {
    const changes =
      plugin.type === "dynamo-discovery"
        ? { frontend: new URL(stack.frontend.url).host, ...options.discovery }
        : options.router;
    if (changes !== undefined) plugin.parameters = { ...plugin.parameters, ...changes };
  }
  return stringify(config);
}

/** What an idle set must not have. */
function leftOver({ set, router }: SetState): string[] {
  const left: string[] = [];
  if (router.bookings !== 0) left.push(`${set}: ${router.bookings} bookings`);
  for (const { requests } of router.queue) if (requests !== 0) left.push(`${set}: ${requests} in the queue`);
  for (const [stage, loads] of Object.entries(router.loads)) {
    for (const { activeRequests, activePrefillTokens, activeDecodeBlocks } of loads) {
      if (activeRequests + activePrefillTokens + activeDecodeBlocks === 0) continue;
      left.push(
        `${set}: ${stage} ${activeRequests} requests, ${activePrefillTokens} tokens, ${activeDecodeBlocks} blocks`,
      );
    }
  }
  return left;
}
