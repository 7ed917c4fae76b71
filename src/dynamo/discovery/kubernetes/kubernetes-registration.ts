/**
 * Writes the records of one pod (in container mode: of one of its containers) into its DynamoWorkerMetadata object, whole at every change. The
 * object is owned by the pod, so that Kubernetes removes it with the pod should this process not come to do it.
 */
import { type KubernetesApi, KubernetesApiError } from "../../../net/kubernetes/api-client.ts";
import type { EncodedRecord } from "../../encode-record.ts";
import { instanceIdOfPod } from "../../instance-id.ts";
import { encodeExactJson, parseExactJson } from "../../record-json.ts";
import { type Bucket, bucketOf } from "../../record-keys.ts";
import { DiscoveryBackendError } from "../discovery-error.ts";
import type { DynamoRegistration } from "../registration.ts";
import { workerName } from "./readiness-index.ts";
import { metadataCollection, sections } from "./worker-metadata.ts";

export interface KubernetesRegistrationOptions {
  /** Stays its giver's to close. */
  readonly api: Pick<KubernetesApi, "request">;
  readonly namespace: string;
  readonly pod: string;
  readonly podUid: string;
  /** In container mode. */
  readonly container?: string;
}

/** As Dynamo's workers sign what they apply: the object is theirs to take over and the other way round. */
const fieldManager = "dynamo-worker";

export function createKubernetesRegistration(options: KubernetesRegistrationOptions): DynamoRegistration {
  return new KubernetesRegistration(options);
}

/**
 * What the registrations of this process have in one object. A configuration that is read anew opens its registration before the one of the old
 * is closed: neither may take back what the other has put.
 */
interface PodObject {
  /** By registration, the oldest first. */
  readonly parts: Set<ReadonlyMap<string, string>>;
  /** Writes, one after the other: the last one has everything. */
  work: Promise<void>;
  /** There may be an object, be it without records. */
  isWritten: boolean;
}

/** By the pod's uid and the object's name. */
const podObjects = new Map<string, PodObject>();

class KubernetesRegistration implements DynamoRegistration {
  readonly instanceId: bigint;
  readonly #options: KubernetesRegistrationOptions;
  readonly #name: string;
  readonly #path: string;
  readonly #records = new Map<string, string>();
  readonly #objectKey: string;
  readonly #object: PodObject;
  #isClosed = false;

  constructor(options: KubernetesRegistrationOptions) {
    this.#options = options;
    this.#name = options.container === undefined ? options.pod : workerName(options.pod, options.container);
    this.#path = `${metadataCollection(options.namespace)}/${this.#name}`;
    this.instanceId = instanceIdOfPod(this.#name);
    this.#objectKey = `${options.podUid}/${this.#name}`;
    this.#object = podObjects.get(this.#objectKey) ?? {
      parts: new Set(),
      work: Promise.resolve(),
      isWritten: false,
    };
    podObjects.set(this.#objectKey, this.#object);
    this.#object.parts.add(this.#records);
  }

  async put({ key, text }: EncodedRecord): Promise<void> {
    if (this.#isClosed) throw new DiscoveryBackendError("the registration is closed");
    const before = this.#records.get(key);
    this.#records.set(key, text);
    try {
      await this.#queue(() => this.#write());
    } catch (cause) {
      if (before === undefined) this.#records.delete(key);
      else this.#records.set(key, before);
      throw new DiscoveryBackendError(`cannot write ${this.#path}`, { cause });
    }
  }

  async remove(key: string): Promise<void> {
    if (!this.#records.delete(key)) return;
    await this.#queue(() => this.#write());
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const hadRecords = this.#records.size > 0;
    this.#object.parts.delete(this.#records);
    await this.#queue(async () => {
      if (this.#object.parts.size > 0) {
        if (hadRecords) await this.#write();
        return;
      }
      try {
        if (this.#object.isWritten) await this.#delete();
      } finally {
        if (this.#object.parts.size === 0) podObjects.delete(this.#objectKey);
      }
    });
  }

  #queue(step: () => Promise<void>): Promise<void> {
    const done = this.#object.work.then(step);
    this.#object.work = done.catch(() => {});
    return done;
  }

  async #delete(): Promise<void> {
    await this.#options.api.request({ method: "DELETE", path: this.#path }).catch((error: unknown) => {
      if (!(error instanceof KubernetesApiError && error.status === 404)) throw error;
    });
  }

  async #write(): Promise<void> {
    const { api, pod, podUid } = this.#options;
    this.#object.isWritten = true;
    const owner = {
      apiVersion: "v1",
      kind: "Pod",
      name: pod,
      uid: podUid,
      // A pod's containers may each have an object; one of them can be the controller's.
      controller: this.#name === pod,
      blockOwnerDeletion: false,
    };
    const records = new Map(Array.from(this.#object.parts, (part) => [...part]).flat());
    await api.request({
      method: "PATCH",
      path: `${this.#path}?fieldManager=${fieldManager}&force=true`,
      contentType: "application/apply-patch+yaml",
      body: encodeExactJson({
        apiVersion: "nvidia.com/v1alpha1",
        kind: "DynamoWorkerMetadata",
        metadata: { name: this.#name, ownerReferences: [owner] },
        spec: { data: metadataOf(records) },
      }),
    });
  }
}

/** `spec.data` of an object with these records. */
export function metadataOf(records: ReadonlyMap<string, string>): Readonly<Record<string, unknown>> {
  const data: Record<string, Record<string, unknown>> = {};
  const sectionOf = new Map<Bucket, Record<string, unknown>>();
  for (const [section, bucket] of sections) {
    const members: Record<string, unknown> = {};
    data[section] = members;
    sectionOf.set(bucket, members);
  }
  for (const [key, text] of records) {
    const bucket = bucketOf(key);
    const members = bucket === undefined ? undefined : sectionOf.get(bucket);
    if (bucket === undefined || members === undefined)
      throw new DiscoveryBackendError(`${key} is in no bucket of records`);
    members[key.slice(bucket.length + 1)] = parseExactJson(text);
  }
  return data;
}
