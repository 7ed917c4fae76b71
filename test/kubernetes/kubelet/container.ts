/** One container of a pod: its program in a root folder of its own (container.sh), begun again when it ends. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { PodNamespace } from "./pod-network.ts";
import { type ContainerSpec, fieldOf, type Pod } from "./pod-objects.ts";
import type { PodVolumes } from "./pod-volumes.ts";
import { type RunningProgram, startProgram } from "./run-program.ts";

/** What stands for a container image: a program, and folders or files of the host that it finds in its root. */
export interface Image {
  readonly command: readonly string[];
  /** By path in the container. */
  readonly mounts: Readonly<Record<string, string>>;
  readonly environment?: Readonly<Record<string, string>>;
}

export interface ContainerPlace {
  readonly pod: Pod;
  readonly namespace: PodNamespace;
  readonly volumes: PodVolumes;
  /** Scratch and log of the pod's containers. */
  readonly folder: string;
  /** With the files of the service account. */
  readonly accountFolder: string;
  /** Where the API server is, as a pod is told. */
  readonly apiServer: { readonly host: string; readonly port: number };
}

const script = join(import.meta.dirname, "container.sh");
const accountPath = "/run/secrets/kubernetes.io/serviceaccount";

export interface Container {
  readonly spec: ContainerSpec;
  readonly restarts: number;
  /** Undefined: it is being begun again. */
  readonly program: RunningProgram | undefined;
  readonly logFile: string;
  start(): Promise<void>;
  stop(graceMs: number): Promise<void>;
}

export function createContainer(place: ContainerPlace, spec: ContainerSpec, image: Image): Container {
  let program: RunningProgram | undefined;
  let starts = 0;
  const logFile = join(place.folder, `${spec.name}.log`);
  return {
    spec,
    logFile,
    get restarts() {
      return Math.max(0, starts - 1);
    },
    get program() {
      return program?.ended() === undefined ? program : undefined;
    },
    async start() {
      starts++;
      const root = join(place.folder, `${spec.name}.root`);
      await mkdir(root, { recursive: true });
      const mounts = join(place.folder, `${spec.name}.mounts`);
      await writeFile(mounts, `${mountsOf(place, spec, image).join("\n")}\n`);
      const environment = environmentOf(place, spec, image);
      const expand = (text: string): string => text.replace(/\$\((\w+)\)/g, (all, name) => environment[name] ?? all);
      const own = [...(spec.command ?? image.command), ...(spec.args ?? [])].map(expand);
      program = await startProgram({
        command: [...place.namespace.enter, "unshare", "-m", "bash", script, root, mounts, ...own],
        environment,
        logFile,
      });
    },
    stop: async (graceMs) => await program?.stop(graceMs),
  };
}

function mountsOf({ volumes, accountFolder }: ContainerPlace, spec: ContainerSpec, image: Image): readonly string[] {
  const { readOnlyRootFilesystem = false, capabilities } = spec.securityContext ?? {};
  return [
    ...Object.entries(image.mounts).map(([path, host]) => `bind ${host} ${path}`),
    `bind ${accountFolder} ${accountPath}`,
    ...(spec.volumeMounts ?? []).map(
      ({ name, mountPath, subPath }) => `bind ${join(volumes.folder(name), subPath ?? "")} ${mountPath}`,
    ),
    ...(readOnlyRootFilesystem ? [] : ["writable"]),
    ...(capabilities?.drop?.includes("ALL") === true ? [] : ["capable"]),
  ];
}

function environmentOf(
  { pod, namespace, apiServer }: ContainerPlace,
  spec: ContainerSpec,
  image: Image,
): Readonly<Record<string, string>> {
  const declared = (spec.env ?? []).map(({ name, value, valueFrom }) => {
    if (valueFrom === undefined) return [name, value ?? ""] as const;
    const path = valueFrom.fieldRef?.fieldPath;
    if (path === undefined) throw new Error(`${name} is from something that is not known`);
    return [name, fieldOf(pod, namespace.address, path)] as const;
  });
  return {
    PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    HOME: "/",
    HOSTNAME: pod.metadata.name,
    KUBERNETES_SERVICE_HOST: apiServer.host,
    KUBERNETES_SERVICE_PORT: String(apiServer.port),
    ...image.environment,
    ...Object.fromEntries(declared),
  };
}
