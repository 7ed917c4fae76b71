/** The list of `--endpoints`. */
import { describe, expect, it } from "@jest/globals";
import { createStaticDiscovery, parseEndpointList } from "../../../../src/data/discovery/static.ts";
import { createEndpointStore } from "../../../../src/data/endpoint-store.ts";

describe("the list of --endpoints", () => {
  it("takes IPv4 and bracketed IPv6 addresses with ports, named for their address", async () => {
    const { endpoints, faults } = parseEndpointList("10.0.0.1:8000, [fd00::1]:9000,127.0.0.1:1", "pool");
    expect(faults).toEqual([]);
    const store = createEndpointStore();
    await createStaticDiscovery(endpoints).start(store);
    expect(store.isSynced).toBe(true);
    expect(store.snapshot().map(({ name, hostPort, address, port }) => [name, hostPort, address, port])).toEqual([
      ["pool/10.0.0.1:8000", "10.0.0.1:8000", "10.0.0.1", 8000],
      ["pool/127.0.0.1:1", "127.0.0.1:1", "127.0.0.1", 1],
      ["pool/[fd00::1]:9000", "[fd00::1]:9000", "fd00::1", 9000],
    ]);
  });

  it.each([
    ["", "empty entry"],
    ["10.0.0.1:80,", "empty entry"],
    ["10.0.0.1", "expected ip:port"],
    ["10.0.0.1:", "the port must be 1 to 65535"],
    ["10.0.0.1:0", "the port must be 1 to 65535"],
    ["10.0.0.1:65536", "the port must be 1 to 65535"],
    ["10.0.0.1:1e3", "the port must be 1 to 65535"],
    ["10.0.0:80", '"10.0.0" is no IPv4 or bracketed IPv6 address'],
    ["worker:80", '"worker" is no IPv4 or bracketed IPv6 address'],
    ["http://10.0.0.1:80", '"http://10.0.0.1" is no IPv4 or bracketed IPv6 address'],
    ["fd00::1", "an IPv6 address is written [address]:port"],
    ["fd00::1:80", "an IPv6 address is written [address]:port"],
    ["[10.0.0.1]:80", '"[10.0.0.1]" is no IPv6 address'],
    ["[fe80::1%eth0]:80", '"[fe80::1%eth0]" is no IPv6 address'],
    ["10.0.0.1:80,10.0.0.1:80", "named twice"],
  ])("refuses %p", (text, fault) => {
    expect(parseEndpointList(text, "default").faults.join("; ")).toContain(fault);
  });

  it("names every fault at once", () => {
    expect(parseEndpointList("x,10.0.0.1:0,10.0.0.2:80", "default").faults).toHaveLength(2);
  });
});
