/** The real Dynamo frontend on a free loopback port, and what it says of the workers it knows. */

import { freePorts } from "./ports.ts";
import { type DynamoProcess, startPython } from "./process.ts";

export interface DynamoFrontend {
  readonly url: string;
  readonly process: DynamoProcess;
  /** Workers of a model (the stack's, or an adapter) it would route to now, by worker type; empty while the model is not there. One that was killed counts until its record expires. */
  workers(model?: string): Promise<Readonly<Record<string, number>>>;
  /** Generate endpoints of its namespace that it sees in discovery. */
  instances(): Promise<ReadonlySet<bigint>>;
}

export interface FrontendPlan {
  readonly routerMode: string;
  readonly namespace: string;
  readonly model: string;
  readonly args: readonly string[];
  /** As before a restart; a free one otherwise. */
  readonly port?: number;
}

const portAttempts = 3;

/** Starts a frontend; it answers HTTP when this resolves, whether or not there are workers. */
export async function startFrontend(
  name: string,
  directory: string,
  plan: FrontendPlan,
  environment: Readonly<Record<string, string>>,
): Promise<DynamoFrontend> {
  for (let attempt = 1; ; attempt += 1) {
    const port = plan.port ?? (await freePorts());
    const url = `http://127.0.0.1:${port}`;
    const process = startPython(
      name,
      directory,
      [
        "dynamo.frontend",
        `--router-mode=${plan.routerMode}`,
        `--namespace=${plan.namespace}`,
        "--http-host=127.0.0.1",
        `--http-port=${port}`,
        ...plan.args,
      ],
      { ...environment, DYN_SYSTEM_PORT: "-1" },
    );
    try {
      await process.until("an answer on its port", async () => (await isUp(url)) || undefined);
      return {
        url,
        process,
        workers: (model = plan.model) => readyWorkers(url, model),
        instances: () => seenInstances(url, plan.namespace),
      };
    } catch (error) {
      await process.close();
      if (attempt === portAttempts || !/address already in use/i.test(process.log())) throw error;
    }
  }
}

async function isUp(url: string): Promise<boolean> {
  try {
    return (await fetch(`${url}/live`, { signal: AbortSignal.timeout(2_000) })).status < 600;
  } catch {
    return false;
  }
}

interface Readiness {
  readonly namespaces?: Readonly<
    Record<string, { readonly worker_types?: Readonly<Record<string, { readonly workers?: number }>> }>
  >;
}

async function readyWorkers(url: string, model: string): Promise<Readonly<Record<string, number>>> {
  const counts: Record<string, number> = {};
  try {
    const answer = await fetch(`${url}/v1/models/${model}/ready`, { signal: AbortSignal.timeout(2_000) });
    const readiness = (await answer.json()) as Readiness;
    for (const namespace of Object.values(readiness.namespaces ?? {})) {
      for (const [type, { workers = 0 }] of Object.entries(namespace.worker_types ?? {})) {
        counts[type] = (counts[type] ?? 0) + workers;
      }
    }
  } catch {
    // Not up, or a model it does not know: no workers.
  }
  return counts;
}

interface Health {
  readonly instances?: readonly {
    readonly namespace: string;
    readonly endpoint: string;
    readonly instance_id: bigint;
  }[];
}

async function seenInstances(url: string, own: string): Promise<ReadonlySet<bigint>> {
  const answer = await fetch(`${url}/health`, { signal: AbortSignal.timeout(2_000) });
  const exact = (key: string, value: unknown, context?: { readonly source?: string }): unknown =>
    key === "instance_id" ? BigInt(context?.source ?? 0) : value;
  const { instances = [] } = JSON.parse(await answer.text(), exact) as Health;
  const serving = instances.filter(({ namespace, endpoint }) => namespace === own && endpoint === "generate");
  return new Set(serving.map((instance) => instance.instance_id));
}
