/**
 * The `dynamo-discovery` plugin: follows the workers that Dynamo's components register, and makes an endpoint of each that serves requests: the
 * frontend beside it. The router of their prefill and decode legs reads the worker sets from here.
 */
import { isIP } from "node:net";
import type { DynamoRegistration } from "../../../dynamo/discovery/registration.ts";
import { createModelFiles, type ModelFiles } from "../../../dynamo/model-card/model-files-keeper.ts";
import { isTruthy } from "../../../dynamo/variables.ts";
import { type NamespaceFilter, namespaceFilterFromEnvironment } from "../../../dynamo/worker-sets/namespace-filter.ts";
import type { SetWorker, WorkerSet, WorkerSetListener } from "../../../dynamo/worker-sets/worker-set.ts";
import { WorkerSets } from "../../../dynamo/worker-sets/worker-sets.ts";
import { isLoggedAt } from "../../../telemetry/log.ts";
import type { EndpointSpec, EndpointWriter } from "../../endpoint-store.ts";
import type { PluginContext } from "../../plugin.ts";
import { type Discovery, DiscoveryError } from "../discovery.ts";
import type { DynamoDiscoveryParameters } from "./dynamo-discovery-parameters.ts";
import { createFrontendMap, type FrontendMap, type FrontendMapParameters, parseFrontendList } from "./frontend-map.ts";
import { SetListeners } from "./set-listeners.ts";
import {
  type BackendName,
  backendNameOf,
  createRegistration,
  createWorkerSource,
  type WorkerSource,
} from "./worker-source.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/** Decimal u64: which worker stands behind an endpoint. */
export const instanceIdLabel = "nvidia.com/dynamo-instance-id";

/** Component under which the worker registers: in Kubernetes not the one that the pod's own label names. */
export const runtimeComponentLabel = "nvidia.com/dynamo-runtime-component";

export class DynamoWorkers implements Discovery {
  readonly sets: WorkerSets;
  /** No model is served without prefill workers. */
  readonly isDisaggEnforced: boolean;
  readonly #context: PluginContext;
  readonly #parameters: DynamoDiscoveryParameters;
  readonly #source: string;
  readonly #frontends: FrontendMap;
  readonly #files: ModelFiles;
  readonly #listeners: SetListeners;
  readonly #environment: Environment;
  readonly #backendName: BackendName;
  readonly #filter: NamespaceFilter;
  #backend: WorkerSource | undefined;
  #started: Promise<void> | undefined;
  #store: EndpointWriter | undefined;
  #isApplying = false;
  #isClosed = false;
  /** Workers whose frontend nobody names, so that each is said once. */
  readonly #homeless = new Set<bigint>();
  #homelessEver = 0;

  constructor(parameters: DynamoDiscoveryParameters, context: PluginContext) {
    this.#context = context;
    this.#parameters = parameters;
    this.#source = context.name;
    this.#frontends = createFrontendMap(frontendsOf(parameters, context.environment?.["DYN_EPP_FRONTENDS"]));
    this.isDisaggEnforced = parameters.enforceDisagg ?? isTruthy(context.environment?.["DYN_ENFORCE_DISAGG"]);
    const environment = context.environment ?? {};
    this.#environment = environment;
    this.#backendName = backendNameOf(parameters, environment);
    this.#filter = namespaceFilterOf(parameters, environment);
    this.#listeners = new SetListeners(context.log);
    this.#listeners.add(this.#endpointUpkeep());
    this.#files = createModelFiles({
      log: context.log,
      modelPath: parameters.modelPath,
      changed: (fingerprint) => this.sets.filesChanged(fingerprint),
      ...(parameters.modelCacheDir === undefined ? {} : { cacheDir: parameters.modelCacheDir }),
    });
    this.sets = new WorkerSets({
      log: context.log,
      listener: this.#listeners,
      filter: this.#filter,
      enforceDisagg: this.isDisaggEnforced,
      files: this.#files,
    });
  }

  /** Begins at once where no pool asks: endpoints may come from elsewhere while the workers come from here. */
  activate(): void {
    this.#begin().catch((error: unknown) => {
      this.#context.log.error({ error }, "Dynamo's discovery cannot be read");
    });
  }

  async start(store: EndpointWriter): Promise<void> {
    this.#store = store;
    try {
      await this.#begin();
    } catch (error) {
      throw new DiscoveryError(error instanceof Error ? error.message : String(error), { cause: error });
    }
    this.#apply();
    store.markSynced();
  }

  /** Hears of every set and worker there is now, then of every change. */
  subscribe(listener: WorkerSetListener): () => void {
    for (const set of this.sets.sets) {
      listener.setAdded(set);
      for (const worker of set.workers.values()) listener.workerAdded(set, worker);
      listener.setChanged(set);
    }
    return this.#listeners.add(listener);
  }

  /** A place for records of this process among those it reads; the caller's to close. Rejects where the backend takes none or is away. */
  register(): Promise<DynamoRegistration> {
    const { log } = this.#context;
    const [parameters, environment] = [this.#parameters, this.#environment];
    return createRegistration({ backend: this.#backendName, parameters, environment, log });
  }

  /** Discovery cannot be reached: what it last said stands. */
  get isStale(): boolean {
    return this.#backend?.isStale ?? true;
  }

  /** Texts in discovery that could not be read as records, ever. */
  get malformedRecords(): number {
    return this.#backend?.malformedRecords ?? 0;
  }

  dumpState(): Readonly<Record<string, unknown>> {
    return {
      backend: this.#backendName,
      isStale: this.isStale,
      malformedRecords: this.malformedRecords,
      faults: this.sets.faults,
      sets: this.sets.sets.map(describeSet),
      withoutFrontend: [...this.#homeless].map(String),
    };
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    // Also ends a start that still waits for its backend.
    await this.#backend?.close();
    await this.#started?.catch(() => undefined);
    await this.#files.close();
  }

  #begin(): Promise<void> {
    this.#started ??= this.#connect();
    return this.#started;
  }

  async #connect(): Promise<void> {
    const backend = await createWorkerSource({
      backend: this.#backendName,
      parameters: this.#parameters,
      environment: this.#environment,
      filter: this.#filter,
      log: this.#context.log,
      podsChanged: () => this.#endpointsChanged(),
    });
    if (this.#isClosed) return await backend.close();
    this.#backend = backend;
    await backend.start(this.sets);
  }

  /** Once for all changes of one turn. */
  #endpointsChanged(): void {
    if (this.#isApplying || this.#store === undefined) return;
    this.#isApplying = true;
    queueMicrotask(() => {
      this.#isApplying = false;
      this.#apply();
    });
  }

  #endpointUpkeep(): WorkerSetListener {
    const changed = (): void => this.#endpointsChanged();
    return {
      setAdded: () => undefined,
      setRemoved: changed,
      setChanged: changed,
      workerAdded: changed,
      workerChanged: changed,
      workerRemoved: changed,
      channelOpened: () => undefined,
      channelClosed: () => undefined,
    };
  }

  #apply(): void {
    const specs: EndpointSpec[] = [];
    const homeless = new Set<bigint>();
    for (const set of this.sets.sets) {
      for (const worker of set.workers.values()) {
        if (worker.role === "prefill") continue;
        const spec = this.#specOf(set, worker);
        if (spec === undefined) homeless.add(worker.id);
        else specs.push(spec);
      }
    }
    for (const id of homeless) {
      if (this.#homeless.has(id) || !isLoggedAt(++this.#homelessEver)) continue;
      this.#context.log.warn(
        { worker: id.toString(), count: this.#homelessEver },
        this.#backend?.podOf === undefined
          ? "no frontend is known for a worker, so it gets no requests: set frontend, frontendPort or frontends"
          : "no ready pod with a port named http is known for a worker, so it gets no requests",
      );
    }
    this.#homeless.clear();
    for (const id of homeless) this.#homeless.add(id);
    this.#store?.replaceAll(this.#source, specs);
  }

  /** In Kubernetes the worker's pod says where its frontend is and which labels it has; elsewhere the configuration does. */
  #specOf(set: WorkerSet, worker: SetWorker): EndpointSpec | undefined {
    const identity = identityOf(set, worker);
    const podOf = this.#backend?.podOf;
    if (podOf !== undefined) {
      const pod = podOf(worker.id);
      if (pod === undefined) return undefined;
      const { namespace, name, address, port, labels } = pod;
      return {
        namespace,
        name,
        address,
        port,
        labels: new Map([...identity.labels, ...labels, [instanceIdLabel, worker.id.toString()]]),
      };
    }
    const frontend = this.#frontends.find({
      instanceId: worker.id,
      stableRoutingId: worker.card.runtime.stableRoutingId,
      host: hostOf(worker),
    });
    return frontend === undefined ? undefined : { ...frontend, ...identity };
  }
}

function identityOf(set: WorkerSet, worker: SetWorker): Pick<EndpointSpec, "namespace" | "name" | "labels"> {
  const { component } = worker.instance;
  return {
    namespace: set.namespace,
    name: `${component}-${worker.id.toString(16)}`,
    labels: new Map([
      [instanceIdLabel, worker.id.toString()],
      ["nvidia.com/dynamo-namespace", set.namespace],
      ["nvidia.com/dynamo-component", component],
      [runtimeComponentLabel, component],
      ["nvidia.com/dynamo-component-class", "worker"],
      ["nvidia.com/dynamo-component-type", worker.role === "decode" ? "decode" : "worker"],
      // What filters of configurations from before there was a type "decode" look at.
      ...(worker.role === "decode" ? [["nvidia.com/dynamo-sub-component-type", "decode"] as const] : []),
    ]),
  };
}

/** Host of the worker's request plane; a name is no address that a destination header can hold. */
function hostOf({ instance }: SetWorker): string | undefined {
  if (instance.transport.kind !== "tcp") return undefined;
  const { address } = instance.transport;
  const host = address.slice(0, address.lastIndexOf(":")).replace(/^\[|\]$/g, "");
  return isIP(host) === 0 ? undefined : host;
}

function describeSet(set: WorkerSet): Readonly<Record<string, unknown>> {
  return {
    key: set.key,
    namespace: set.namespace,
    model: set.model,
    state: set.state,
    reason: set.reason,
    topology: set.topology,
    files: set.files ?? null,
    workers: [...set.workers.values()].map(({ id, role, instance, loras, sources }) => ({
      id: id.toString(),
      role,
      component: instance.component,
      transport: instance.transport,
      loras: [...loras.keys()],
      eventSources: sources.size,
    })),
    rejected: set.rejected.map(({ fingerprint, instanceIds, reason }) => ({
      fingerprint,
      instanceIds: instanceIds.map(String),
      reason,
    })),
  };
}

/** The parameters where they name any frontend, else the list that the process was given. */
function frontendsOf(parameters: FrontendMapParameters, list: string | undefined): FrontendMapParameters {
  const { frontend, frontendPort, frontends } = parameters;
  if ((frontend ?? frontendPort ?? frontends) !== undefined || list === undefined || list === "") return parameters;
  const parsed = parseFrontendList(list.split(",").map((entry) => entry.trim()));
  if (parsed.faults.length > 0) throw new RangeError(`DYN_EPP_FRONTENDS: ${parsed.faults.join("; ")}`);
  return parsed.parameters;
}

function namespaceFilterOf(
  { namespace, namespacePrefix, strictPrefix }: DynamoDiscoveryParameters,
  environment: Environment,
): NamespaceFilter {
  if (namespacePrefix !== undefined) {
    return { kind: "prefix", prefix: namespacePrefix, isStrict: strictPrefix ?? false };
  }
  if (namespace !== undefined) return { kind: "exact", namespace };
  return namespaceFilterFromEnvironment(environment);
}
