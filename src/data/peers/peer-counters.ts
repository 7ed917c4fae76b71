/** What went between the replicas; plain counts that only grow. */

export interface PeerCounters {
  /** Frames of changes, and all bytes. */
  sentChanges: number;
  sentBytes: number;
  heardChanges: number;
  heardBytes: number;
  /** Whole states sent: to a new peer, or to one that had fallen behind. */
  snapshots: number;
  /** Peers that came back in time to be told only what they had missed. */
  resumed: number;
  /** Readers so slow that what they had not read is kept no more. */
  overrun: number;
  /** Peers whose share was taken away because nothing was heard of them. */
  silent: number;
  /** Connections ended because of what came over them. */
  refused: number;
  /** Payloads of a state that this replica does not have. */
  unknownTopic: number;
  /** Payloads that could not be read. */
  malformed: number;
  /** Payloads of this replica that were too long to be told. */
  tooLong: number;
}

export function createPeerCounters(): PeerCounters {
  return {
    sentChanges: 0,
    sentBytes: 0,
    heardChanges: 0,
    heardBytes: 0,
    snapshots: 0,
    resumed: 0,
    overrun: 0,
    silent: 0,
    refused: 0,
    unknownTopic: 0,
    malformed: 0,
    tooLong: 0,
  };
}
