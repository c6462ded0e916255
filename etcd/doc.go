// Package etcd keeps a store on etcd, so that several processes can serve the same users and keys.
//
// [New] makes an engine for [latchkey.OpenWith] from a client of etcd and a prefix. Everything that
// the engine keeps has keys that begin with the prefix. The engine needs no other right than to
// read and write these keys. The caller closes the client after the store. [Open] makes an engine
// from a URL, with a client of its own.
//
// # Keys
//
// An entry of a table has the key prefix + "t/" + table + 0x00 + key. In the name of the table, a
// byte 0x00 is written as 0x01 0x02, and a byte 0x01 as 0x01 0x01. The key prefix + "commit" has
// the random number of the last commit, and its modification revision is the sequence of that
// commit. Keys that begin with prefix + "fence/" belong to processes that had to find out whether a
// commit took place, and expire after an hour.
//
// # Transactions
//
// A transaction reads one revision of etcd. The transactions of a process that are ready to commit
// share one transaction of etcd, which compares everything that they have read. If something has
// changed, the function of [latchkey.Engine].Update runs again. A transaction can make 120 writes
// of 1 MiB together. A transaction that reads more than about 100 keys and ranges, that counts, or
// that asks for changes, conflicts with every other commit. Transactions of a process that have met
// others run again one by one.
//
// In an Update, Sequence returns the sequence of the state that the transaction reads. Other
// commits, of entries that the transaction does not read, can come between that state and its own
// commit.
//
// # Several processes
//
// Each engine watches its prefix. It asks etcd four times in each [Options].WatchAge whether the
// watch has everything, and so knows how old its knowledge is.
//
// # The mirror
//
// With [Options].Mirror, an engine keeps a copy of all entries in a bbolt file. The watch that
// every engine has feeds the copy, so a mirror costs etcd no more than the first reading of all
// entries. While the knowledge of the engine is younger than WatchAge, and the file has everything
// that the engine has committed or heard of, View reads the file. So a process that reads much,
// such as a hub of replicas, asks etcd only to write. Counts, Changes and SequenceOf come from the
// file, too, and Changes reaches back behind the history that etcd has compacted. An Update always
// reads etcd.
//
// A View of the file sees one state, and never an earlier one than a transaction of the same engine
// before it. The View can lack what another process has committed within WatchAge. When it must see
// that, the program calls Wait before it, or uses an Update.
//
// When an engine is opened again, it goes on with its file, if etcd still has the history from
// there. The file is made anew if etcd was restored, if it is damaged, or if it is the mirror of
// another prefix. A damaged file that may be something else gets another name before. Another file
// at the path is left alone. The file has the same secrets as a store.
//
// # What it does not do
//
// The package does not start or configure etcd, and neither compacts nor defragments it. The gRPC
// proxy of etcd does not pass on the answers about the progress of a watch. Behind such a proxy,
// the cache is not used while others write to etcd, and [latchkey.Store.Health] says so.
package etcd
