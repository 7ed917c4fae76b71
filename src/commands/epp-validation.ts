/** What `signalbox epp` refuses although each flag is well formed: flags that exclude each other or need another. */

import { parseFrontendList } from "../data/discovery/dynamo/frontend-map.ts";
import { faultyRequirement, maxTargetPorts } from "../data/discovery/kubernetes/endpoint-selector.ts";
import { poolGroups } from "../data/discovery/kubernetes/inference-pool.ts";
import { parseEndpointList } from "../data/discovery/static.ts";
import { parseBytes } from "../data/duration.ts";
import { parsePeer } from "../data/peers/peer-addresses.ts";
import type { EppSettings } from "./epp-flags.ts";
import { isPoolName, type PoolChoice, parsePoolNames } from "./pool-names.ts";

function isSet(value: EppSettings[keyof EppSettings]): boolean {
  return Array.isArray(value) ? value.length > 0 : value !== "" && value !== false;
}

/** One line a fault; [] when the picker can be started. */
export function faultsOfEppFlags(settings: EppSettings): readonly string[] {
  const faults: string[] = [];
  if (settings["config-file"] !== "" && settings["config-text"] !== "") {
    faults.push("--config-file and --config-text exclude each other");
  }
  if (settings.endpoints.length > 0) {
    const { faults: listFaults } = parseEndpointList(settings.endpoints.join(","), "default");
    faults.push(...listFaults.map((fault) => `--endpoints: ${fault}`));
  }
  const { faults: frontendFaults } = parseFrontendList(settings["dynamo-frontend"]);
  faults.push(...frontendFaults.map((fault) => `--dynamo-frontend: ${fault}`));
  for (const name of ["grpc-max-recv-msg-size", "grpc-max-send-msg-size"] as const) {
    if (settings[name] !== "" && parseBytes(settings[name]) === undefined) {
      faults.push(`--${name}: expected a number of bytes like "4194304" or "64Mi"`);
    }
  }
  if (settings["enable-cert-reload"] && settings["cert-path"] === "") {
    faults.push("--enable-cert-reload: needs --cert-path; a self-signed certificate has no files to reload");
  }
  if (!/^(debug|info|warn|error|\d+)?$/.test(settings["zap-log-level"])) {
    faults.push("--zap-log-level: expected debug, info, warn, error, or a verbosity like 4");
  }
  if (
    settings.endpoints.length === 0 &&
    settings["config-file"] === "" &&
    settings["config-text"] === "" &&
    !isSet(settings["pool-name"]) &&
    !isSet(settings["endpoint-selector"])
  ) {
    faults.push(
      "no endpoints: give --pool-name or --endpoint-selector (Kubernetes), --endpoints ip:port,..., or a configuration with a discovery plugin",
    );
  }
  faults.push(...faultsOfPools(settings), ...faultsOfSelector(settings), ...faultsOfPeers(settings));
  return faults;
}

function faultsOfPeers(settings: EppSettings): readonly string[] {
  const peers = settings.peers.map((text) => parsePeer(text, settings["peer-port"]));
  const faults = peers.flatMap((peer) => ("fault" in peer ? [`--peers: ${peer.fault}`] : []));
  if (peers.length > 0 && isSet(settings["peer-service"])) faults.push("--peers and --peer-service exclude each other");
  if (isSet(settings["peer-secret-file"]) && peers.length === 0 && !isSet(settings["peer-service"])) {
    faults.push("--peer-secret-file: needs --peers or --peer-service");
  }
  return faults;
}

function faultsOfPools(settings: EppSettings): readonly string[] {
  const { pools, faults } = parsePoolNames(settings["pool-name"], settings["grpc-port"]);
  const group = settings["pool-group"];
  const listed = settings.endpoints.length > 0;
  return [
    ...faults,
    ...faultsOfPrefillPool(settings, pools),
    ...(listed && pools.length > 1 ? ["--pool-name: several pools have no place beside --endpoints"] : []),
    ...(poolGroups.includes(group) ? [] : [`--pool-group: must be one of ${poolGroups.join(", ")}`]),
  ];
}

function faultsOfPrefillPool(settings: EppSettings, pools: readonly PoolChoice[]): readonly string[] {
  const name = settings["prefill-pool-name"];
  if (name === "") return [];
  const faults: string[] = [];
  if (!isPoolName(name)) faults.push(`--prefill-pool-name: ${JSON.stringify(name)} is not a pool's name`);
  if (settings["pool-name"].length !== 1) faults.push("--prefill-pool-name: needs one --pool-name");
  if (settings.endpoints.length > 0) faults.push("--prefill-pool-name: has no place beside --endpoints");
  if (pools.some((pool) => pool.name === name)) faults.push(`--prefill-pool-name: ${name} is --pool-name already`);
  return faults;
}

function faultsOfSelector(settings: EppSettings): readonly string[] {
  if (settings["endpoint-selector"] === "") return [];
  const faults: string[] = [];
  if (isSet(settings["pool-name"])) faults.push("either --pool-name or --endpoint-selector must be set, not both");
  const faulty = faultyRequirement(settings["endpoint-selector"]);
  if (faulty !== undefined) faults.push(`--endpoint-selector: ${JSON.stringify(faulty)} selects nothing by labels`);
  const ports = settings["endpoint-target-ports"];
  if (ports.length < 1 || new Set(ports).size > maxTargetPorts) {
    faults.push(`--endpoint-target-ports: --endpoint-selector needs 1 to ${maxTargetPorts} ports`);
  }
  for (const port of ports) {
    if (port < 1 || port > 65_535) faults.push(`--endpoint-target-ports: ${port} is no port`);
  }
  return faults;
}
