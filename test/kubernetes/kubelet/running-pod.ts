/**
 * One pod on the node: namespace, volumes, containers, probes and status, from its start until it is stopped. Containers that end or fail their
 * liveness probe are begun again; the status is written when it changes.
 */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { KubernetesApi } from "../../../src/net/kubernetes/api-client.ts";
import { eventually } from "../../stack.ts";
import { type Container, createContainer, type Image } from "./container.ts";
import { nodeAddress, type PodNamespace, type PodNetwork } from "./pod-network.ts";
import { type Pod, sidecarsOf } from "./pod-objects.ts";
import { createPodVolumes, type PodVolumes } from "./pod-volumes.ts";
import { type ProbeSpec, probe } from "./probe.ts";

export interface RunningPodOptions {
  readonly api: Pick<KubernetesApi, "request">;
  readonly network: PodNetwork;
  readonly folder: string;
  readonly caFile: Buffer;
  readonly apiServer: { readonly host: string; readonly port: number };
  readonly imageOf: (name: string) => Image;
  readonly log: (text: string) => void;
}

/** Between looks at the containers. */
const tickMs = 100;
/** Readiness is asked for as often as a test can wait for, whatever the probe says. */
const readinessPeriodMs = 250;
const volumePeriodMs = 1000;
/** A machine that builds and tests at once is slower than the nodes that probes are written for: only what stays away is not alive. */
const patience = 10;
const restartDelayMs = 500;

interface Probed {
  readonly container: Container;
  readonly isSidecar: boolean;
  isReady: boolean;
  isStarted: boolean;
  nextReadinessMs: number;
  nextLivenessMs: number;
  failedLiveness: number;
  failedReadiness: number;
  restartAtMs: number | undefined;
}

export class RunningPod {
  readonly pod: Pod;
  readonly #options: RunningPodOptions;
  readonly #closing = new AbortController();
  #namespace: PodNamespace | undefined;
  #volumes: PodVolumes | undefined;
  #containers: readonly Probed[] = [];
  #run: Promise<void> | undefined;
  #told = "";
  #startedAt = "";

  constructor(pod: Pod, options: RunningPodOptions) {
    this.pod = pod;
    this.#options = options;
  }

  get address(): string | undefined {
    return this.#namespace?.address;
  }

  /** Process id of a container that runs. */
  pidOf(container: string): number | undefined {
    return this.#containers.find(({ container: { spec } }) => spec.name === container)?.container.program?.pid;
  }

  start(): void {
    this.#run ??= this.#live().catch((error: unknown) => {
      this.#options.log(`${this.#name}: ${error instanceof Error ? error.message : String(error)}`);
    });
  }

  async stop(graceMs: number): Promise<void> {
    this.#closing.abort();
    await this.#run;
    for (const sidecars of [false, true]) {
      const ending = this.#containers.filter(({ isSidecar }) => isSidecar === sidecars);
      await Promise.all(ending.map(({ container }) => container.stop(graceMs)));
    }
    await this.#namespace?.close();
  }

  get #name(): string {
    return `${this.pod.metadata.namespace}/${this.pod.metadata.name}`;
  }

  async #live(): Promise<void> {
    const { signal } = this.#closing;
    await this.#beginAtLast();
    let nextVolumesMs = performance.now() + volumePeriodMs;
    while (!signal.aborted) {
      for (const probed of this.#containers) await this.#look(probed);
      if (performance.now() > nextVolumesMs) {
        await this.#volumes?.refresh().catch(() => {});
        nextVolumesMs = performance.now() + volumePeriodMs;
      }
      await this.#tell();
      await pause(tickMs, signal);
    }
  }

  /** What a pod needs may come later than the pod. */
  async #beginAtLast(): Promise<void> {
    const { signal } = this.#closing;
    for (let begun = false; !begun && !signal.aborted; ) {
      try {
        await this.#begin();
        begun = true;
      } catch (error) {
        this.#options.log(`${this.#name}: ${error instanceof Error ? error.message : String(error)}`);
        await this.#namespace?.close();
        this.#namespace = undefined;
        await pause(restartDelayMs, signal);
      }
    }
  }

  async #begin(): Promise<void> {
    const { api, network, imageOf, folder: parent, apiServer } = this.#options;
    const { pod } = this;
    const folder = join(parent, pod.metadata.uid);
    const accountFolder = join(folder, "account");
    await mkdir(accountFolder, { recursive: true });
    const sidecars = sidecarsOf(pod);
    const specs = [...sidecars, ...pod.spec.containers];
    const images = specs.map(({ image }) => imageOf(image));
    const namespace = await network.createNamespace();
    this.#namespace = namespace;
    await this.#writeAccount(accountFolder);
    const volumes = await createPodVolumes(api, pod, join(folder, "volumes"));
    this.#volumes = volumes;
    const place = { pod, namespace, volumes, folder, accountFolder, apiServer };
    this.#startedAt = timestamp();
    this.#containers = specs.map((spec, index) => ({
      container: createContainer(place, spec, images[index] as Image),
      isSidecar: index < sidecars.length,
      isReady: false,
      isStarted: false,
      nextReadinessMs: 0,
      nextLivenessMs: performance.now() + (spec.livenessProbe?.initialDelaySeconds ?? 0) * 1000,
      failedLiveness: 0,
      failedReadiness: 0,
      restartAtMs: undefined,
    }));
    for (const { container } of this.#containers) await container.start();
    this.#options.log(`${this.#name}: started at ${namespace.address}`);
  }

  /** The account may be made a moment after its namespace. */
  async #writeAccount(folder: string): Promise<void> {
    const { api, caFile } = this.#options;
    const { namespace } = this.pod.metadata;
    const account = this.pod.spec.serviceAccountName ?? "default";
    const path = `/api/v1/namespaces/${namespace}/serviceaccounts/${account}/token`;
    const body = JSON.stringify({ spec: { expirationSeconds: 3600 } });
    const token = await eventually(
      `there is a token of ${namespace}/${account}`,
      () =>
        api.request({ method: "POST", path, body }).then(
          (text) => (JSON.parse(text) as { readonly status: { readonly token: string } }).status.token,
          () => undefined,
        ),
      30_000,
    );
    await writeFile(join(folder, "ca.crt"), caFile);
    await writeFile(join(folder, "namespace"), namespace);
    await writeFile(join(folder, "token"), token);
  }

  async #look(probed: Probed): Promise<void> {
    const { container } = probed;
    const nowMs = performance.now();
    if (container.program === undefined) {
      probed.isReady = false;
      if (probed.restartAtMs === undefined) {
        this.#options.log(`${this.#name}: ${container.spec.name} ended`);
        probed.restartAtMs = nowMs + restartDelayMs;
      } else if (nowMs > probed.restartAtMs) {
        probed.restartAtMs = undefined;
        const delayMs = (container.spec.livenessProbe?.initialDelaySeconds ?? 0) * 1000;
        probed.nextLivenessMs = nowMs + delayMs;
        await container.start();
      }
      return;
    }
    const { readinessProbe, livenessProbe } = container.spec;
    if (readinessProbe === undefined) probed.isReady = true;
    else if (nowMs > probed.nextReadinessMs) {
      probed.nextReadinessMs = nowMs + readinessPeriodMs;
      if (await this.#passes(container, readinessProbe)) {
        probed.isReady = true;
        probed.failedReadiness = 0;
      } else if (++probed.failedReadiness >= (readinessProbe.failureThreshold ?? 3)) probed.isReady = false;
    }
    if (livenessProbe === undefined || nowMs < probed.nextLivenessMs) return;
    probed.nextLivenessMs = nowMs + (livenessProbe.periodSeconds ?? 10) * 1000;
    if (await this.#passes(container, livenessProbe)) probed.failedLiveness = 0;
    else if (++probed.failedLiveness >= patience * (livenessProbe.failureThreshold ?? 3)) {
      probed.failedLiveness = 0;
      this.#options.log(`${this.#name}: ${container.spec.name} is not alive`);
      await container.stop(1000);
    }
  }

  #passes({ spec }: Container, probeSpec: ProbeSpec): Promise<boolean> {
    const timeoutSeconds = patience * (probeSpec.timeoutSeconds ?? 1);
    return probe({ ...probeSpec, timeoutSeconds }, this.#namespace?.address ?? "", spec.ports ?? []);
  }

  #statuses(sidecars: boolean): readonly object[] {
    return this.#containers
      .filter(({ isSidecar }) => isSidecar === sidecars)
      .map(({ container: { spec, restarts, program }, isReady: ready }) => ({
        name: spec.name,
        image: spec.image,
        imageID: "local",
        ready,
        started: program !== undefined,
        restartCount: restarts,
        state: program === undefined ? { waiting: { reason: "Ended" } } : { running: { startedAt: this.#startedAt } },
      }));
  }

  async #tell(): Promise<void> {
    const { address = "" } = this.#namespace ?? {};
    const isReady = this.#containers.every((probed) => probed.isReady);
    const state = this.#containers.map(({ container, isReady: ready }) => [container.restarts, ready]);
    const key = JSON.stringify([state, isReady]);
    if (key === this.#told) return;
    const condition = (type: string, isTrue: boolean) => ({
      type,
      status: isTrue ? "True" : "False",
      lastTransitionTime: timestamp(),
    });
    const status = {
      phase: "Running",
      hostIP: nodeAddress,
      podIP: address,
      podIPs: [{ ip: address }],
      startTime: this.#startedAt,
      conditions: [
        condition("PodScheduled", true),
        condition("Initialized", true),
        condition("ContainersReady", isReady),
        condition("Ready", isReady),
      ],
      initContainerStatuses: this.#statuses(true),
      containerStatuses: this.#statuses(false),
    };
    const { namespace, name } = this.pod.metadata;
    const isTold = await this.#options.api
      .request({
        method: "PATCH",
        path: `/api/v1/namespaces/${namespace}/pods/${name}/status`,
        contentType: "application/merge-patch+json",
        body: JSON.stringify({ status }),
      })
      .then(
        () => true,
        () => false,
      );
    if (!isTold) return;
    if (this.#told !== key) this.#options.log(`${this.#name}: ready ${isReady}`);
    this.#told = key;
  }
}

function timestamp(): string {
  return new Date().toISOString().replace(/\.\d+Z$/, "Z");
}

function pause(forMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const wake = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", wake);
      resolve();
    };
    const timer = setTimeout(wake, forMs);
    signal.addEventListener("abort", wake);
  });
}
