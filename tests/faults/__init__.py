"""What fails around the engine, and which test shows what it says, what it refuses, that it recovers by itself and that nothing acknowledged is lost.

A real engine; real small disks, in a mount namespace of their own; and for what no kernel does on request a shim between the engine and its system
calls (shim.c).  Each test ends with the account of its mail (world.py).  `make test` runs all but those marked `long`, `make faults` those too.

disk full: bodies, index, all   test_disk: full_below_the_reserve_then_to_the_last_byte; 452, "new mail is refused: disk low", "is accepted again"
  in the middle of a body       test_disk: no_room_for_a_body_in_the_middle; 452 (451: short, with room left), "not-stored ... No space left"
  in the middle of a commit     test_disk: no_room_for_a_commit_in_the_middle, spool/test_full; 452, "commit failed: no space left", outcomes wait
  accounting                    test_disk: full_where_accounting_lies; mail flows, "cannot write ...; records wait in the spool, next try in 1s"
  log                           test_disk: full_where_the_log_lies, test_log; mail flows, "log lost N lines that could not be written"
EIO: bodies written, synced     test_input_output: bodies_cannot_be_written; 451, "sync failed: segment ...", that file is written no more
  bodies read                   test_input_output: a_body_cannot_be_read; "quarantine ...: 1 recipient(s) wait an hour"
  index                         test_input_output: the_index_cannot_be_written; "failed: ... Input/output error", the spool process is started again
  accounting                    test_input_output: accounting_cannot_be_written; mail flows, "cannot write"
  log cannot be opened          test_disk: a_log_that_cannot_be_opened; it goes to standard error until that is mended
accounting target unwritable    test_input_output: the_target_of_accounting_is_not_writable, accounting/test_export; N "records to write"
no descriptor: listener         test_resources: a_listener_without_*; "no connection could be accepted", 451
  delivery                      test_resources: a_sender_without_descriptors; "queue-failed ... no socket can be bound", no attempt is counted
  spool process                 test_resources: a_spool_process_without_descriptors, spool/test_service; "cannot accept a connection", 451
  supervisor                    control/test_desk
  whole system (ENFILE)         test_resources: no_descriptor_in_the_whole_system
no memory                       test_resources: no_memory_for_*; "fault ... MemoryError" and a session ends, or the process, which is started again
  memory held of what arrives   reception/test_intake
clock forward and back          test_outside: the_clock_steps_and_steps_back, delivery/test_backlog; "clock the wall clock stepped", nobody bounced
  stamps when it goes back      spool/test_service
DNS dead, silent, lying, slow   test_outside: dns_*, dns/test_resolver, system/test_dns; "queue-failed ... status=4.4.3", others are delivered
map full                        spool/test_full: a_full_map_refuses_before_commits_fail; 452, "the index holds N MB of its M MB"
body damaged                    system/test_spool_commands: a_damaged_body; "quarantine", kept queued, `engine spool check` names it
  met by compaction             spool/test_compaction, spool/test_offline; "is damaged at ...: it is left as it is"
index page damaged              test_outside: a_page_of_the_index_is_damaged, spool/test_repair; the start is refused, "its index is damaged"
row damaged                     spool/test_check, spool/test_repair: after_a_damage
reader dead, or standing still  test_outside: a_reader_that_died_holds_no_pages, spool/test_readers; "freed N reader slots", "pid N reads the index"
worker stopped, or looping      system/test_kills: who_stands_still, supervisor/test_supervisor: who_holds_its_loop; "hung ...: killed"
"""
