/** An authority of the test's own and what it signs, by openssl: the API server's certificate, an administrator's, and the key of service account tokens. */
import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

export interface ClusterCertificates {
  readonly ca: string;
  readonly server: { readonly cert: string; readonly key: string };
  readonly admin: { readonly cert: string; readonly key: string };
  readonly accountKey: string;
}

/** Files in the folder; the server's is for 127.0.0.1 and the other addresses. */
export async function writeCertificates(
  folder: string,
  addresses: readonly string[] = [],
): Promise<ClusterCertificates> {
  const file = (name: string): string => join(folder, name);
  /** Arguments are parted by spaces; files are names in the folder. */
  const openssl = async (args: string): Promise<void> => {
    await run("openssl", args.split(" "), { cwd: folder }).catch((cause: unknown) => {
      throw new Error(`openssl ${args} failed; the Kubernetes tests need openssl 1.1.1 or newer`, { cause });
    });
  };
  const key = (name: string) => openssl(`ecparam -name prime256v1 -genkey -noout -out ${name}`);
  await key("ca.key");
  await openssl(
    "req -x509 -new -key ca.key -subj /CN=signalbox-test-ca -days 30 -out ca.crt -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign,cRLSign",
  );
  const leaf = async (name: string, subject: string, extensions: string) => {
    await key(`${name}.key`);
    await writeFile(file(`${name}.ext`), `keyUsage=digitalSignature,keyEncipherment\n${extensions}\n`);
    await openssl(`req -new -key ${name}.key -subj ${subject} -out ${name}.csr`);
    const signing = "-CA ca.crt -CAkey ca.key -CAcreateserial -days 30";
    await openssl(`x509 -req -in ${name}.csr ${signing} -out ${name}.crt -extfile ${name}.ext`);
    return { cert: file(`${name}.crt`), key: file(`${name}.key`) };
  };
  const server = await leaf(
    "server",
    "/CN=kube-apiserver",
    `extendedKeyUsage=serverAuth\nsubjectAltName=${["DNS:localhost", "DNS:kubernetes.default.svc", ...["127.0.0.1", ...addresses].map((address) => `IP:${address}`)].join(",")}`,
  );
  const admin = await leaf("admin", "/O=system:masters/CN=admin", "extendedKeyUsage=clientAuth");
  await key("accounts.key");
  return { ca: file("ca.crt"), server, admin, accountKey: file("accounts.key") };
}
