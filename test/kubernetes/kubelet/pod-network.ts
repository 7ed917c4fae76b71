/**
 * Network namespaces for pods inside a namespace of the test's own (`unshare -rn`, no root needed): a bridge with the node's address, and for each
 * pod a namespace with an address of its own on it. What is made here goes with the namespace around it.
 */
import { join } from "node:path";
import { eventually } from "../../stack.ts";
import { type RunningProgram, runProgram, startProgram } from "./run-program.ts";

export const nodeAddress = "10.77.255.254";

export interface PodNamespace {
  readonly address: string;
  /** Before a command, runs it in the pod's namespace. */
  readonly enter: readonly string[];
  close(): Promise<void>;
}

export interface PodNetwork {
  /** Addresses are not used again. */
  createNamespace(): Promise<PodNamespace>;
  /** After the namespaces. */
  close(): Promise<void>;
}

/** The file is the log of what holds the namespaces open. */
export async function createPodNetwork(folder: string): Promise<PodNetwork> {
  const logFile = join(folder, "namespaces.log");
  await runProgram("ip", "link", "add", "pods", "type", "bridge").catch((cause: unknown) => {
    throw new Error("pods need a network namespace of the test's own: start it with `unshare -rn`", { cause });
  });
  await runProgram("ip", "address", "add", `${nodeAddress}/16`, "dev", "pods");
  await runProgram("ip", "link", "set", "pods", "up");
  let pods = 0;
  return {
    async createNamespace() {
      pods++;
      const address = `10.77.${pods >> 8}.${pods & 255}`;
      const holder = await startProgram({
        command: ["unshare", "-n", "sleep", "infinity"],
        environment: { PATH: process.env["PATH"] ?? "" },
        logFile,
      });
      try {
        await connect(holder, `pod${pods}`, address);
      } catch (error) {
        await holder.stop(0);
        throw error;
      }
      return {
        address,
        enter: ["nsenter", "-t", String(holder.pid), "-n"],
        close: () => holder.stop(0),
      };
    },
    close: async () => void (await runProgram("ip", "link", "delete", "pods")),
  };
}

async function connect({ pid, ended }: RunningProgram, link: string, address: string): Promise<void> {
  const inside = (...command: readonly string[]) => runProgram("nsenter", "-t", String(pid), "-n", ...command);
  const outside = await runProgram("readlink", "/proc/self/ns/net");
  await eventually(`${link} has a namespace`, async () => {
    if (ended() !== undefined) throw new Error(`unshare -n ended: ${ended()}`);
    return (await runProgram("readlink", `/proc/${pid}/ns/net`).catch(() => outside)) !== outside;
  });
  await runProgram("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", String(pid));
  await runProgram("ip", "link", "set", link, "master", "pods", "up");
  await inside("ip", "link", "set", "lo", "up");
  await inside("ip", "address", "add", `${address}/16`, "dev", "eth0");
  await inside("ip", "link", "set", "eth0", "up");
  await inside("ip", "route", "add", "default", "via", nodeAddress);
}
