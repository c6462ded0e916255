package record

// The tables of a store. The records of users, keys and groups, and what is left of deleted ones,
// can be replicated, so the engine tracks their changes. The other tables are indexes that can be
// made again from the records, or belong to one store alone. docs/formats.md has the fields and
// test vectors.
const (
	TableUsers     = "users"     // user ID → User
	TableKeys      = "keys"      // key ID → Key
	TableGroups    = "groups"    // name → Group
	TableDeadUsers = "deadusers" // user ID → UserTombstone
	TableDeadKeys  = "deadkeys"  // key ID → KeyTombstone

	TableMeta       = "meta"       // a key of the list below → a record
	TableIdentities = "identities" // provider 0 subject → user ID
	TableNames      = "names"      // owner, name, 0, key ID → an empty value
	TableMembers    = "members"    // group, 0, ID of a user or server key → an empty value
	TableHandles    = "handles"    // handle, key ID → an empty value
	TableHashes     = "hashes"     // key ID, verifier ID → hash at the store's cost, as a record
	TableLastUse    = "lastuse"    // key ID, verifier ID → minute of the last use, as a record
	TableLater      = "later"      // table 0 key → a record of a later version
	TableReplica    = "replica"    // a key of package replication → what it keeps, as a record
	TableData       = "data"       // name 0 key → bytes of an application, as a record
)

// TrackedTables returns the tables whose changes the engine tracks.
func TrackedTables() []string {
	return []string{TableUsers, TableKeys, TableGroups, TableDeadUsers, TableDeadKeys}
}

// Tables returns all tables.
func Tables() []string {
	return append([]string{
		TableMeta, TableIdentities, TableNames, TableMembers, TableHandles, TableHashes, TableLastUse, TableLater, TableReplica, TableData,
	}, TrackedTables()...)
}

// The keys of the table meta.
const (
	MetaFormat    = "format"
	MetaDomain    = "domain"
	MetaTags      = "tags"
	MetaReplica   = "replica"
	MetaClock     = "clock"
	MetaBuried    = "buried"    // not there after deletions without tombstones
	MetaMigration = "migration" // while a store is being copied here, and is none yet
)
