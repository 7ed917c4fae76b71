import { describe, expect, it } from "@jest/globals";
import { createListedPeers, type PeerAddress, parsePeer } from "../../../../src/data/peers/peer-addresses.ts";
import { createServicePeers, peersInSlice } from "../../../../src/data/peers/peer-slices.ts";
import type { WatchRequest } from "../../../../src/net/kubernetes/api-client.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";

async function until(what: string, check: () => boolean): Promise<void> {
  const end = performance.now() + 20_000;
  while (!check()) {
    if (performance.now() > end) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

describe("a peer on the command line", () => {
  it.each([
    ["10.0.0.1", { host: "10.0.0.1", port: 9004 }],
    ["10.0.0.1:99", { host: "10.0.0.1", port: 99 }],
    ["fd00::1", { host: "fd00::1", port: 9004 }],
    ["[fd00::1]:99", { host: "fd00::1", port: 99 }],
    ["peers", { host: "peers", port: 9004 }],
    ["peers.ns.svc.cluster.local.:99", { host: "peers.ns.svc.cluster.local.", port: 99 }],
  ])("%s is read", (text, expected) => {
    expect(parsePeer(text, 9004)).toEqual(expected);
  });

  it.each(["", ":99", "a:0", "a:65536", "a:b", "http://a", "-a", "a b"])("%j is refused", (text) => {
    expect(parsePeer(text, 9004)).toEqual({ fault: expect.stringContaining(`"${text}"`) });
  });
});

describe("listed peers", () => {
  it("are every address of each name, the last known ones while a name has no answer", async () => {
    const answers: (readonly string[] | undefined)[] = [["10.0.0.1", "10.0.0.2"], undefined, ["10.0.0.3"]];
    const heard: (readonly PeerAddress[])[] = [];
    const source = createListedPeers({
      names: [
        { host: "peers", port: 1 },
        { host: "10.9.9.9", port: 2 },
      ],
      resolve: () => {
        const answer = answers.length > 1 ? answers.shift() : answers[0];
        return answer === undefined ? Promise.reject(new Error("no answer")) : Promise.resolve(answer);
      },
      intervalMs: 1,
    });
    await source.start((addresses) => heard.push(addresses));
    await until("three answers", () => heard.length >= 3);
    await source.close();
    const fixed = { host: "10.9.9.9", port: 2 };
    const first = [{ host: "10.0.0.1", port: 1 }, { host: "10.0.0.2", port: 1 }, fixed];
    expect(heard.slice(0, 3)).toEqual([first, first, [{ host: "10.0.0.3", port: 1 }, fixed]]);
    const told = heard.length;
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(heard.length).toBe(told);
  });

  it("that are addresses alone are told once", async () => {
    const heard: (readonly PeerAddress[])[] = [];
    const source = createListedPeers({
      names: [{ host: "10.0.0.1", port: 1 }],
      resolve: () => Promise.reject(new Error("nobody asks")),
    });
    await source.start((addresses) => heard.push(addresses));
    await source.close();
    expect(heard).toEqual([[{ host: "10.0.0.1", port: 1 }]]);
  });
});

describe("peers behind a Service", () => {
  const slice = (name: string, addresses: readonly (readonly string[])[], ports: readonly object[] = []) => ({
    metadata: { name, namespace: "ns", resourceVersion: "7" },
    addressType: "IPv4",
    ports,
    endpoints: addresses.map((list) => ({ addresses: list, conditions: { ready: false } })),
  });

  it("are all addresses of a slice, ready or not, at the port named peers", () => {
    expect(peersInSlice(slice("a", [["10.0.0.1"], ["10.0.0.2"]]), 9004)).toEqual([
      { host: "10.0.0.1", port: 9004 },
      { host: "10.0.0.2", port: 9004 },
    ]);
    const ports = [
      { name: "grpc", port: 1 },
      { name: "peers", port: 2 },
    ];
    expect(peersInSlice(slice("a", [["10.0.0.1"]], ports), 9004)).toEqual([{ host: "10.0.0.1", port: 2 }]);
    expect(peersInSlice({ ...slice("a", [["host"]]), addressType: "FQDN" } as never, 1)).toBeUndefined();
    expect(peersInSlice({ ...slice("a", []), endpoints: null } as never, 1)).toEqual([]);
  });

  it("are those of all its slices without this pod, as they come and go", async () => {
    const heard: (readonly PeerAddress[])[] = [];
    const paths: string[] = [];
    let watch: WatchRequest | undefined;
    const source = createServicePeers({
      api: {
        request: ({ path }) => {
          paths.push(path);
          return Promise.resolve(
            JSON.stringify({
              metadata: { resourceVersion: "7" },
              items: [slice("a", [["10.0.0.1"], ["10.0.0.2"]]), slice("b", [["10.0.0.2"], ["10.0.0.3"]])],
            }),
          );
        },
        watch: (request, signal) => {
          watch = request;
          request.opened();
          return new Promise((resolve) => signal.addEventListener("abort", () => resolve()));
        },
      },
      namespace: "ns",
      service: "picker",
      port: 9004,
      own: new Set(["10.0.0.1"]),
      log: silentLogger,
    });
    await source.start((addresses) => heard.push(addresses));
    await until("a watch", () => watch !== undefined);
    watch?.line(JSON.stringify({ type: "DELETED", object: slice("b", []) }));
    watch?.line(JSON.stringify({ type: "ADDED", object: slice("c", [["10.0.0.4"]]) }));
    await source.close();
    expect(heard.map((addresses) => addresses.map(({ host }) => host))).toEqual([
      ["10.0.0.2", "10.0.0.3"],
      ["10.0.0.2"],
      ["10.0.0.2", "10.0.0.4"],
    ]);
    expect(paths[0]).toContain("/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices?");
    expect(decodeURIComponent(paths[0] ?? "")).toContain("labelSelector=kubernetes.io/service-name=picker");
  });
});
