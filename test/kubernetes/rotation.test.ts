/** Under load through a real Envoy: the account's token and authority are exchanged and the old token is revoked, and the serving certificate is exchanged. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect } from "node:tls";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { startWorkersChild } from "../../src/app/child.ts";
import { findEnvoy, startEnvoy } from "../../src/app/envoy.ts";
import { startLoad, tally } from "../e2e/load.ts";
import { defaultModel, eventually } from "../stack.ts";
import { createAuthority, signed } from "../unit/admin/certificates.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { installDefinitions } from "./definitions.ts";
import { startFaultProxy } from "./fault-proxy.ts";
import { type MountedFolder, mountFolder } from "./mounted-folder.ts";
import { grantPickerRights, pickerAccount, startPickerPod } from "./picker-pod.ts";
import { createPoolNamespace, type PoolNamespace, poolSpec } from "./pool-namespace.ts";

const namespace = "rotation";
const app = { app: "vllm" };

let plane: ControlPlane;
let place: PoolNamespace;
let folder: string;
const open: { close(): Promise<void> }[] = [];
/** Each takes less than a minute where nothing else runs. */
const limitMs = 300_000;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "signalbox-rotation-"));
  plane = await startControlPlane();
  await installDefinitions(plane.api, "inference-extension");
  place = await createPoolNamespace(plane, namespace);
  await grantPickerRights(plane, namespace);
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

/** Of the picker's account, good for as long as the secret is there. */
async function boundToken(secret: string): Promise<string> {
  const secrets = `/api/v1/namespaces/${namespace}/secrets`;
  const { metadata } = JSON.parse(await create(secrets, { metadata: { name: secret } })) as {
    readonly metadata: { readonly uid: string };
  };
  const answer = await create(`/api/v1/namespaces/${namespace}/serviceaccounts/${pickerAccount}/token`, {
    spec: {
      expirationSeconds: 3600,
      boundObjectRef: { apiVersion: "v1", kind: "Secret", name: secret, uid: metadata.uid },
    },
  });
  return (JSON.parse(answer) as { readonly status: { readonly token: string } }).status.token;
}

const isRefused = async (token: string): Promise<boolean> => {
  const review = await create("/apis/authentication.k8s.io/v1/tokenreviews", { spec: { token } });
  const { status } = JSON.parse(review) as { readonly status: { readonly authenticated?: boolean } };
  return status.authenticated !== true;
};

/** The name in the certificate that a new connection is shown. */
function servedName(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port, rejectUnauthorized: false, ALPNProtocols: ["h2"] }, () => {
      resolve(String(socket.getPeerCertificate().subject.CN));
      socket.destroy();
    });
    socket.on("error", (error) => reject(new Error(error.message)));
  });
}

async function publishCertificate(certificates: MountedFolder, name: string): Promise<void> {
  const { cert, key } = await signed(await createAuthority(), name);
  await certificates.publish({ "tls.crt": cert, "tls.key": key });
}

describe("rotation under load", () => {
  it(
    "of the account's token and authority and of the serving certificate fails no request and loses no change",
    async () => {
      const workers = await startWorkersChild(2, ["--time-scale=1000"]);
      open.push(workers);
      const ports = workers.ready.map(({ hostPort }) => Number(hostPort.split(":")[1]));
      await place.putPool("pool", poolSpec(app, ...ports));
      await place.createPod("engine", { labels: app, ips: ["127.0.0.1"] });
      const authority = await readFile(plane.certificates.ca, "utf8");
      const account = await mountFolder(join(folder, "account"));
      const first = await boundToken("first");
      await account.publish({ token: first, "ca.crt": authority });
      const certificates = await mountFolder(join(folder, "certificates"));
      await publishCertificate(certificates, "first");
      const network = await startFaultProxy(plane.port);
      open.push(network);
      const picker = await startPickerPod({
        plane,
        namespace,
        podName: "picker-0",
        account: account.path,
        apiPort: network.port,
        args: ["--pool-name=pool", `--cert-path=${certificates.path}`, "--enable-cert-reload"],
      });
      open.push(picker);
      const envoy = await startEnvoy({
        mode: "full-duplex",
        binary: findEnvoy(process.env),
        picker: { port: picker.ready.grpcPort, tls: true },
        listenPort: 0,
      });
      open.push(envoy);
      await create(`/api/v1/namespaces/${namespace}/serviceaccounts`, { metadata: { name: "reader" } });
      await create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {
        metadata: { name: "rotation-reader" },
        roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "signalbox-epp-metrics-reader" },
        subjects: [{ kind: "ServiceAccount", name: "reader", namespace }],
      });
      /** With a token that was never shown before, so that the API server has to be asked. */
      const endpoints = async (): Promise<number | undefined> => {
        const token = await plane.tokenIn(await plane.accountFolder(namespace, "reader"));
        const headers = { authorization: `Bearer ${token}` };
        const page = await (await fetch(`http://127.0.0.1:${picker.ready.metricsPort}/metrics`, { headers })).text();
        const value = /^llm_d_epp_ready_endpoints\{name="pool"\} (\d+)$/m.exec(page)?.[1];
        return value === undefined ? undefined : Number(value);
      };
      await eventually("both endpoints are scraped", async () => (await endpoints()) === 2, 30_000);
      const load = startLoad({
        url: `${envoy.url}/v1/chat/completions`,
        concurrency: 8,
        body: () => JSON.stringify({ model: defaultModel, max_tokens: 2, messages: [{ role: "user", content: "hi" }] }),
      });
      open.push({ close: () => load.stop() });
      const goesOn = (): Promise<unknown> => {
        const sofar = load.outcomes.length;
        return eventually("traffic", () => Promise.resolve(load.outcomes.length > sofar + 50), 30_000);
      };
      await goesOn();

      const second = await boundToken("second");
      await account.publish({ token: second, "ca.crt": `${authority}${(await createAuthority()).cert}` });
      await plane.api.request({ method: "DELETE", path: `/api/v1/namespaces/${namespace}/secrets/first` });
      await eventually("the first token is refused", () => isRefused(first), 60_000);
      // Watches that were begun with the first token end here.
      network.cut();
      await place.createPod("another", { labels: app, ips: ["127.0.0.1"] });
      await eventually("the change is seen with the second token", async () => (await endpoints()) === 4, 60_000);
      await goesOn();

      expect(await servedName(picker.ready.grpcPort)).toBe("first");
      await publishCertificate(certificates, "second");
      await eventually(
        "the second certificate is served",
        async () => (await servedName(picker.ready.grpcPort)) === "second",
        30_000,
      );
      await goesOn();
      await load.stop();
      expect(tally(load.outcomes)).toEqual({ 200: load.outcomes.length });
    },
    limitMs,
  );
});
