/** Who may read the metrics port, asked of a real API server, and its certificates, exchanged under requests. */

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { request } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { PeerCertificate, TLSSocket } from "node:tls";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import type { Child, EppPorts } from "../../src/app/child.ts";
import { eventually } from "../stack.ts";
import { createAuthority, type Pair, signed } from "../unit/admin/certificates.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { mountFolder } from "./mounted-folder.ts";
import { grantPickerRights, pickerAccount, startPickerPod } from "./picker-pod.ts";

let plane: ControlPlane;
let folder: string;
let account: string;
const namespace = "metrics";
const open: { close(): Promise<void> }[] = [];
/** Each takes less than a minute where nothing else runs. */
const limitMs = 300_000;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "signalbox-metrics-"));
  plane = await startControlPlane();
  await create("/api/v1/namespaces", { metadata: { name: namespace } });
  await grantPickerRights(plane, namespace);
  account = await plane.accountFolder(namespace, pickerAccount);
}, 120_000);
afterAll(async () => {
  await plane?.close();
  await rm(folder, { recursive: true, force: true });
});
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close();
}, 60_000);

const create = (path: string, body: object): Promise<string> =>
  plane.api.request({ method: "POST", path, body: JSON.stringify(body) });

/** A token of a new account. */
async function tokenOf(name: string): Promise<string> {
  await create(`/api/v1/namespaces/${namespace}/serviceaccounts`, { metadata: { name } });
  return await plane.tokenIn(await plane.accountFolder(namespace, name));
}

/** As deploy/kubernetes/rbac.yaml has it for whoever scrapes. */
async function mayRead(name: string): Promise<void> {
  await create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {
    metadata: { name: `read-${name}` },
    roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "signalbox-epp-metrics-reader" },
    subjects: [{ kind: "ServiceAccount", name, namespace }],
  });
}

async function picker(...args: readonly string[]): Promise<Child<EppPorts>> {
  const made = await startPickerPod({
    plane,
    namespace,
    podName: "picker-0",
    account,
    args: ["--endpoint-selector=app=vllm", "--endpoint-target-ports=8000", "--secure-serving=false", ...args],
  });
  open.push(made);
  return made;
}

async function statusOf({ ready }: Child<EppPorts>, path: string, token?: string): Promise<number> {
  const headers: Record<string, string> = token === undefined ? {} : { authorization: `Bearer ${token}` };
  return (await fetch(`http://127.0.0.1:${ready.metricsPort}${path}`, { headers })).status;
}

describe("the metrics port", () => {
  it(
    "lets in whose token the API server knows and who has the right to the path, and nobody else",
    async () => {
      const its = await picker();
      const [reader, stranger] = [await tokenOf("reader"), await tokenOf("stranger")];
      await mayRead("reader");
      await eventually("the reader is let in", async () => (await statusOf(its, "/metrics", reader)) === 200, 30_000);
      expect(await statusOf(its, "/metrics", stranger)).toBe(403);
      expect(await statusOf(its, "/metrics")).toBe(401);
      expect(await statusOf(its, "/metrics", `${reader.slice(0, -4)}AAAA`)).toBe(401);
      // The right is to /metrics, and what /debug shows is more.
      expect(await statusOf(its, "/debug/config", reader)).toBe(403);
    },
    limitMs,
  );

  it(
    "believes what it was told for a while when the API server is away, and lets nobody else in",
    async () => {
      const its = await picker();
      const [known, unknown] = [await tokenOf("known"), await tokenOf("unknown")];
      await mayRead("known");
      await mayRead("unknown");
      await eventually("it is let in", async () => (await statusOf(its, "/metrics", known)) === 200, 30_000);
      await plane.stopApiServer();
      expect(await statusOf(its, "/metrics", known)).toBe(200);
      expect(await statusOf(its, "/metrics", unknown)).toBe(503);
      await plane.startApiServer();
      await eventually("it is let in", async () => (await statusOf(its, "/metrics", unknown)) === 200, 30_000);
    },
    limitMs,
  );

  it(
    "is open with --metrics-endpoint-auth=false",
    async () => {
      const its = await picker("--metrics-endpoint-auth=false");
      expect(await statusOf(its, "/metrics")).toBe(200);
      expect(await statusOf(its, "/debug/config")).toBe(200);
    },
    limitMs,
  );

  it(
    "takes a new certificate without a failed request, and only clients of its authority",
    async () => {
      const authority = await createAuthority();
      const clientAuthority = await createAuthority();
      const client = await signed(clientAuthority, "prometheus");
      const stranger = await signed(await createAuthority(), "stranger");
      const certificates = await mountFolder(join(folder, "certificates"));
      const publish = async (name: string): Promise<void> => {
        const { cert, key } = await signed(authority, name);
        await certificates.publish({ "tls.crt": cert, "tls.key": key });
      };
      await publish("first");
      await writeFile(join(folder, "client-ca.crt"), clientAuthority.cert);
      const its = await picker(
        "--metrics-endpoint-auth=false",
        `--metrics-cert-dir=${certificates.path}`,
        `--metrics-client-ca-file=${join(folder, "client-ca.crt")}`,
      );
      const ask = (who: Pair | undefined) => askOverTls(its.ready.metricsPort, authority.cert, who);
      expect(await ask(client)).toEqual({ status: 200, server: "first" });
      await expect(ask(stranger)).rejects.toThrow();
      await expect(ask(undefined)).rejects.toThrow();
      await publish("second");
      const seen: { readonly status: number; readonly server: string }[] = [];
      await eventually(
        "the second certificate is shown",
        async () => {
          const answer = await ask(client);
          seen.push(answer);
          return answer.server === "second";
        },
        30_000,
      );
      expect(new Set(seen.map(({ status }) => status))).toEqual(new Set([200]));
    },
    limitMs,
  );
});

function askOverTls(
  port: number,
  ca: string,
  who: Pair | undefined,
): Promise<{ readonly status: number; readonly server: string }> {
  return new Promise((resolve, reject) => {
    const sent = request({ host: "127.0.0.1", port, path: "/metrics", ca, agent: false, ...who }, (response) => {
      const certificate: PeerCertificate = (response.socket as TLSSocket).getPeerCertificate();
      response.resume();
      response.on("error", reject);
      response.on("end", () => resolve({ status: response.statusCode ?? 0, server: String(certificate.subject.CN) }));
    });
    sent.on("error", (error) => reject(new Error(error.message)));
    sent.end();
  });
}
