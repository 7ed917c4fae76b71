/** A pool of 10,000 pods: all of them are endpoints, at a cost in processor time and memory that is bounded however busy the machine is. */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { installDefinitions } from "./definitions.ts";
import { type ServingSite, startServingSite } from "./serving-site.ts";
import { podAddress } from "./stored-pods.ts";

const pods = 10_000;

let plane: ControlPlane;
let site: ServingSite | undefined;

beforeAll(async () => {
  plane = await startControlPlane();
  await installDefinitions(plane.api, "inference-extension");
}, 180_000);
afterAll(async () => {
  await site?.close();
  await plane?.close();
});

function costOf(pid: number): { readonly cpuSeconds: number; readonly residentMiB: number } {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  return { cpuSeconds: (Number(fields[11]) + Number(fields[12])) / 100, residentMiB: Number(kib) / 1024 };
}

describe("10,000 pods", () => {
  it("are endpoints within bounds of processor time and memory, and one that leaves is gone", async () => {
    // Nothing listens at their addresses but one: what is measured is the picker, not ten thousand engines.
    site = await startServingSite(plane, { namespace: "large", pods, engines: 1 });
    const { cpuSeconds, residentMiB } = costOf(site.picker.pid);
    expect(cpuSeconds).toBeLessThan(20);
    // The page of all endpoints that the test has read is in it.
    expect(residentMiB).toBeLessThan(450);
    await site.place.setStatus("engine-5000", { ips: [podAddress(5000)], ready: false });
    await site.sees(Array.from({ length: pods }, (_, index) => podAddress(index)).filter((_, index) => index !== 5000));
  }, 300_000);
});
