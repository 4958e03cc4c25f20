complete -c eds -f
complete -c eds -n '__fish_use_subcommand' -a stream
complete -c eds -n '__fish_use_subcommand' -a enroll
complete -c eds -n '__fish_use_subcommand' -a server
complete -c eds -n '__fish_use_subcommand' -a import
complete -c eds -n '__fish_use_subcommand' -a verify
complete -c eds -n '__fish_use_subcommand' -a replay
complete -c eds -n '__fish_use_subcommand' -a demo
complete -c eds -n '__fish_use_subcommand' -a sandbox
complete -c eds -n '__fish_use_subcommand' -a dlq
complete -c eds -n '__fish_use_subcommand' -a why
complete -c eds -n '__fish_use_subcommand' -a doctor
complete -c eds -n '__fish_use_subcommand' -a health
complete -c eds -n '__fish_use_subcommand' -a top
complete -c eds -n '__fish_use_subcommand' -a drivers
complete -c eds -n '__fish_use_subcommand' -a state
complete -c eds -n '__fish_use_subcommand' -a config
complete -c eds -n '__fish_use_subcommand' -a consumer
complete -c eds -n '__fish_use_subcommand' -a download
complete -c eds -n '__fish_use_subcommand' -a publickey
complete -c eds -n '__fish_use_subcommand' -a completion
complete -c eds -n '__fish_use_subcommand' -a man
complete -c eds -n '__fish_use_subcommand' -a explain
complete -c eds -n '__fish_use_subcommand' -a version
complete -c eds -n '__fish_use_subcommand' -a help
complete -c eds -n '__fish_use_subcommand' -l data-dir
complete -c eds -n '__fish_use_subcommand' -l verbose
complete -c eds -n '__fish_use_subcommand' -l silent
complete -c eds -n '__fish_use_subcommand' -l timestamp
complete -c eds -n '__fish_use_subcommand' -l log-format
complete -c eds -n '__fish_use_subcommand' -l log-level
complete -c eds -n '__fish_use_subcommand' -l schema-validator
complete -c eds -n '__fish_use_subcommand' -l help
complete -c eds -n '__fish_use_subcommand' -l version
complete -c eds -n '__fish_seen_subcommand_from stream' -l url
complete -c eds -n '__fish_seen_subcommand_from stream' -l url-file
complete -c eds -n '__fish_seen_subcommand_from stream' -l schema
complete -c eds -n '__fish_seen_subcommand_from stream' -l api-url
complete -c eds -n '__fish_seen_subcommand_from stream' -l tables
complete -c eds -n '__fish_seen_subcommand_from stream' -l adopt
complete -c eds -n '__fish_seen_subcommand_from stream' -l adopt-checkpoint
complete -c eds -n '__fish_seen_subcommand_from stream' -l min-pending-latency
complete -c eds -n '__fish_seen_subcommand_from stream' -l max-pending-latency
complete -c eds -n '__fish_seen_subcommand_from stream' -l restart
complete -c eds -n '__fish_seen_subcommand_from stream' -l schema-change
complete -c eds -n '__fish_seen_subcommand_from stream' -l on-rejected
complete -c eds -n '__fish_seen_subcommand_from stream' -l dead-letters-full
complete -c eds -n '__fish_seen_subcommand_from stream' -l exclude
complete -c eds -n '__fish_seen_subcommand_from stream' -l hash
complete -c eds -n '__fish_seen_subcommand_from stream' -l hash-key-file
complete -c eds -n '__fish_seen_subcommand_from stream' -l types
complete -c eds -n '__fish_seen_subcommand_from stream' -l deletes
complete -c eds -n '__fish_seen_subcommand_from stream' -l add-columns
complete -c eds -n '__fish_seen_subcommand_from stream' -l server
complete -c eds -n '__fish_seen_subcommand_from stream' -l nats-ca
complete -c eds -n '__fish_seen_subcommand_from stream' -l port
complete -c eds -n '__fish_seen_subcommand_from stream' -l bind
complete -c eds -n '__fish_seen_subcommand_from stream' -l ui-token-file
complete -c eds -n '__fish_seen_subcommand_from stream' -l webhook
complete -c eds -n '__fish_seen_subcommand_from stream' -l stop-timeout
complete -c eds -n '__fish_seen_subcommand_from stream' -l ack
complete -c eds -n '__fish_seen_subcommand_from stream' -l consumer-suffix
complete -c eds -n '__fish_seen_subcommand_from stream' -l company-ids
complete -c eds -n '__fish_seen_subcommand_from stream' -l creds
complete -c eds -n '__fish_seen_subcommand_from stream' -l until-caught-up
complete -c eds -n '__fish_seen_subcommand_from stream' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from stream' -l verbose
complete -c eds -n '__fish_seen_subcommand_from stream' -l silent
complete -c eds -n '__fish_seen_subcommand_from stream' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from stream' -l log-format
complete -c eds -n '__fish_seen_subcommand_from stream' -l log-level
complete -c eds -n '__fish_seen_subcommand_from stream' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from stream' -l help
complete -c eds -n '__fish_seen_subcommand_from enroll' -l json
complete -c eds -n '__fish_seen_subcommand_from enroll' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from enroll' -l verbose
complete -c eds -n '__fish_seen_subcommand_from enroll' -l silent
complete -c eds -n '__fish_seen_subcommand_from enroll' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from enroll' -l log-format
complete -c eds -n '__fish_seen_subcommand_from enroll' -l log-level
complete -c eds -n '__fish_seen_subcommand_from enroll' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from enroll' -l help
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -a help
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l url
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l url-file
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l schema
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l api-url
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l tables
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l adopt
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l adopt-checkpoint
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l min-pending-latency
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l max-pending-latency
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l restart
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l schema-change
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l on-rejected
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l dead-letters-full
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l exclude
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l hash
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l hash-key-file
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l types
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l deletes
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l add-columns
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l server
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l nats-ca
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l port
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l bind
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l ui-token-file
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l webhook
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l stop-timeout
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l ack
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l consumer-suffix
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l company-ids
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l api-key
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l eds-id
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l keep-logs
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l release-url
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l release-key
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l self-update
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l allow-downgrade
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l verbose
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l silent
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l log-format
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l log-level
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -l help
complete -c eds -n '__fish_seen_subcommand_from server; and __fish_seen_subcommand_from help' -l json
complete -c eds -n '__fish_seen_subcommand_from server; and __fish_seen_subcommand_from help' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from server; and __fish_seen_subcommand_from help' -l verbose
complete -c eds -n '__fish_seen_subcommand_from server; and __fish_seen_subcommand_from help' -l silent
complete -c eds -n '__fish_seen_subcommand_from server; and __fish_seen_subcommand_from help' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from server; and __fish_seen_subcommand_from help' -l log-format
complete -c eds -n '__fish_seen_subcommand_from server; and __fish_seen_subcommand_from help' -l log-level
complete -c eds -n '__fish_seen_subcommand_from server; and __fish_seen_subcommand_from help' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from server; and __fish_seen_subcommand_from help' -l help
complete -c eds -n '__fish_seen_subcommand_from import' -l url
complete -c eds -n '__fish_seen_subcommand_from import' -l url-file
complete -c eds -n '__fish_seen_subcommand_from import' -l api-key
complete -c eds -n '__fish_seen_subcommand_from import' -l schema
complete -c eds -n '__fish_seen_subcommand_from import' -l dir
complete -c eds -n '__fish_seen_subcommand_from import' -l job-id
complete -c eds -n '__fish_seen_subcommand_from import' -l only
complete -c eds -n '__fish_seen_subcommand_from import' -l company-ids
complete -c eds -n '__fish_seen_subcommand_from import' -l location-ids
complete -c eds -n '__fish_seen_subcommand_from import' -l time-offset
complete -c eds -n '__fish_seen_subcommand_from import' -l schema-only
complete -c eds -n '__fish_seen_subcommand_from import' -l validate-only
complete -c eds -n '__fish_seen_subcommand_from import' -l check
complete -c eds -n '__fish_seen_subcommand_from import' -l json
complete -c eds -n '__fish_seen_subcommand_from import' -l dry-run
complete -c eds -n '__fish_seen_subcommand_from import' -l no-delete
complete -c eds -n '__fish_seen_subcommand_from import' -l no-confirm
complete -c eds -n '__fish_seen_subcommand_from import' -l no-cleanup
complete -c eds -n '__fish_seen_subcommand_from import' -l parallel
complete -c eds -n '__fish_seen_subcommand_from import' -l single
complete -c eds -n '__fish_seen_subcommand_from import' -l restart-import
complete -c eds -n '__fish_seen_subcommand_from import' -l skip-bad-rows
complete -c eds -n '__fish_seen_subcommand_from import' -l ignore-columns
complete -c eds -n '__fish_seen_subcommand_from import' -l adopt
complete -c eds -n '__fish_seen_subcommand_from import' -l exclude
complete -c eds -n '__fish_seen_subcommand_from import' -l hash
complete -c eds -n '__fish_seen_subcommand_from import' -l hash-key-file
complete -c eds -n '__fish_seen_subcommand_from import' -l types
complete -c eds -n '__fish_seen_subcommand_from import' -l deletes
complete -c eds -n '__fish_seen_subcommand_from import' -l add-columns
complete -c eds -n '__fish_seen_subcommand_from import' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from import' -l verbose
complete -c eds -n '__fish_seen_subcommand_from import' -l silent
complete -c eds -n '__fish_seen_subcommand_from import' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from import' -l log-format
complete -c eds -n '__fish_seen_subcommand_from import' -l log-level
complete -c eds -n '__fish_seen_subcommand_from import' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from import' -l help
complete -c eds -n '__fish_seen_subcommand_from verify' -l url
complete -c eds -n '__fish_seen_subcommand_from verify' -l url-file
complete -c eds -n '__fish_seen_subcommand_from verify' -l api-key
complete -c eds -n '__fish_seen_subcommand_from verify' -l api-url
complete -c eds -n '__fish_seen_subcommand_from verify' -l schema
complete -c eds -n '__fish_seen_subcommand_from verify' -l dir
complete -c eds -n '__fish_seen_subcommand_from verify' -l job-id
complete -c eds -n '__fish_seen_subcommand_from verify' -l company-ids
complete -c eds -n '__fish_seen_subcommand_from verify' -l consumer
complete -c eds -n '__fish_seen_subcommand_from verify' -l rate
complete -c eds -n '__fish_seen_subcommand_from verify' -l wait
complete -c eds -n '__fish_seen_subcommand_from verify' -l repair
complete -c eds -n '__fish_seen_subcommand_from verify' -l delete-extra
complete -c eds -n '__fish_seen_subcommand_from verify' -l fresh
complete -c eds -n '__fish_seen_subcommand_from verify' -l exclude
complete -c eds -n '__fish_seen_subcommand_from verify' -l hash
complete -c eds -n '__fish_seen_subcommand_from verify' -l hash-key-file
complete -c eds -n '__fish_seen_subcommand_from verify' -l types
complete -c eds -n '__fish_seen_subcommand_from verify' -l deletes
complete -c eds -n '__fish_seen_subcommand_from verify' -l add-columns
complete -c eds -n '__fish_seen_subcommand_from verify' -l show-values
complete -c eds -n '__fish_seen_subcommand_from verify' -l json
complete -c eds -n '__fish_seen_subcommand_from verify' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from verify' -l verbose
complete -c eds -n '__fish_seen_subcommand_from verify' -l silent
complete -c eds -n '__fish_seen_subcommand_from verify' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from verify' -l log-format
complete -c eds -n '__fish_seen_subcommand_from verify' -l log-level
complete -c eds -n '__fish_seen_subcommand_from verify' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from verify' -l help
complete -c eds -n '__fish_seen_subcommand_from replay' -l url
complete -c eds -n '__fish_seen_subcommand_from replay' -l url-file
complete -c eds -n '__fish_seen_subcommand_from replay' -l schema
complete -c eds -n '__fish_seen_subcommand_from replay' -l api-url
complete -c eds -n '__fish_seen_subcommand_from replay' -l tables
complete -c eds -n '__fish_seen_subcommand_from replay' -l adopt
complete -c eds -n '__fish_seen_subcommand_from replay' -l adopt-checkpoint
complete -c eds -n '__fish_seen_subcommand_from replay' -l min-pending-latency
complete -c eds -n '__fish_seen_subcommand_from replay' -l max-pending-latency
complete -c eds -n '__fish_seen_subcommand_from replay' -l restart
complete -c eds -n '__fish_seen_subcommand_from replay' -l schema-change
complete -c eds -n '__fish_seen_subcommand_from replay' -l on-rejected
complete -c eds -n '__fish_seen_subcommand_from replay' -l dead-letters-full
complete -c eds -n '__fish_seen_subcommand_from replay' -l exclude
complete -c eds -n '__fish_seen_subcommand_from replay' -l hash
complete -c eds -n '__fish_seen_subcommand_from replay' -l hash-key-file
complete -c eds -n '__fish_seen_subcommand_from replay' -l types
complete -c eds -n '__fish_seen_subcommand_from replay' -l deletes
complete -c eds -n '__fish_seen_subcommand_from replay' -l add-columns
complete -c eds -n '__fish_seen_subcommand_from replay' -l dry-run
complete -c eds -n '__fish_seen_subcommand_from replay' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from replay' -l verbose
complete -c eds -n '__fish_seen_subcommand_from replay' -l silent
complete -c eds -n '__fish_seen_subcommand_from replay' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from replay' -l log-format
complete -c eds -n '__fish_seen_subcommand_from replay' -l log-level
complete -c eds -n '__fish_seen_subcommand_from replay' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from replay' -l help
complete -c eds -n '__fish_seen_subcommand_from demo' -l rate
complete -c eds -n '__fish_seen_subcommand_from demo' -l for
complete -c eds -n '__fish_seen_subcommand_from demo' -l seed
complete -c eds -n '__fish_seen_subcommand_from demo' -l url
complete -c eds -n '__fish_seen_subcommand_from demo' -l server
complete -c eds -n '__fish_seen_subcommand_from demo' -l no-nats
complete -c eds -n '__fish_seen_subcommand_from demo' -l import
complete -c eds -n '__fish_seen_subcommand_from demo' -l json
complete -c eds -n '__fish_seen_subcommand_from demo' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from demo' -l verbose
complete -c eds -n '__fish_seen_subcommand_from demo' -l silent
complete -c eds -n '__fish_seen_subcommand_from demo' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from demo' -l log-format
complete -c eds -n '__fish_seen_subcommand_from demo' -l log-level
complete -c eds -n '__fish_seen_subcommand_from demo' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from demo' -l help
complete -c eds -n '__fish_seen_subcommand_from sandbox' -l port
complete -c eds -n '__fish_seen_subcommand_from sandbox' -l nats-port
complete -c eds -n '__fish_seen_subcommand_from sandbox' -l rate
complete -c eds -n '__fish_seen_subcommand_from sandbox' -l seed
complete -c eds -n '__fish_seen_subcommand_from sandbox' -l releases
complete -c eds -n '__fish_seen_subcommand_from sandbox' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from sandbox' -l verbose
complete -c eds -n '__fish_seen_subcommand_from sandbox' -l silent
complete -c eds -n '__fish_seen_subcommand_from sandbox' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from sandbox' -l log-format
complete -c eds -n '__fish_seen_subcommand_from sandbox' -l log-level
complete -c eds -n '__fish_seen_subcommand_from sandbox' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from sandbox' -l help
complete -c eds -n '__fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export help' -a list
complete -c eds -n '__fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export help' -a show
complete -c eds -n '__fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export help' -a retry
complete -c eds -n '__fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export help' -a drop
complete -c eds -n '__fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export help' -a export
complete -c eds -n '__fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export help' -a help
complete -c eds -n '__fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export help' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export help' -l verbose
complete -c eds -n '__fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export help' -l silent
complete -c eds -n '__fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export help' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export help' -l log-format
complete -c eds -n '__fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export help' -l log-level
complete -c eds -n '__fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export help' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export help' -l help
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from list' -l table
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from list' -l kind
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from list' -l reason
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from list' -l consumer
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from list' -l superseded
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from list' -l url
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from list' -l url-file
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from list' -l json
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from list' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from list' -l verbose
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from list' -l silent
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from list' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from list' -l log-format
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from list' -l log-level
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from list' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from list' -l help
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from show' -l table
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from show' -l kind
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from show' -l reason
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from show' -l consumer
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from show' -l superseded
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from show' -l url
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from show' -l url-file
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from show' -l json
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from show' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from show' -l verbose
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from show' -l silent
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from show' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from show' -l log-format
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from show' -l log-level
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from show' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from show' -l help
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l table
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l kind
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l reason
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l consumer
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l superseded
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l url
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l url-file
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l dry-run
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l wait
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l json
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l verbose
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l silent
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l log-format
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l log-level
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from retry' -l help
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l table
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l kind
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l reason
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l consumer
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l superseded
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l url
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l url-file
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l all
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l json
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l verbose
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l silent
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l log-format
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l log-level
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from drop' -l help
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from export' -l table
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from export' -l kind
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from export' -l reason
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from export' -l consumer
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from export' -l superseded
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from export' -l url
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from export' -l url-file
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from export' -l output
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from export' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from export' -l verbose
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from export' -l silent
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from export' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from export' -l log-format
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from export' -l log-level
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from export' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from export' -l help
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from help; and not __fish_seen_subcommand_from list show retry drop export help' -a list
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from help; and not __fish_seen_subcommand_from list show retry drop export help' -a show
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from help; and not __fish_seen_subcommand_from list show retry drop export help' -a retry
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from help; and not __fish_seen_subcommand_from list show retry drop export help' -a drop
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from help; and not __fish_seen_subcommand_from list show retry drop export help' -a export
complete -c eds -n '__fish_seen_subcommand_from dlq; and __fish_seen_subcommand_from help; and not __fish_seen_subcommand_from list show retry drop export help' -a help
complete -c eds -n '__fish_seen_subcommand_from why' -l url
complete -c eds -n '__fish_seen_subcommand_from why' -l url-file
complete -c eds -n '__fish_seen_subcommand_from why' -l schema
complete -c eds -n '__fish_seen_subcommand_from why' -l server
complete -c eds -n '__fish_seen_subcommand_from why' -l creds
complete -c eds -n '__fish_seen_subcommand_from why' -l nats-ca
complete -c eds -n '__fish_seen_subcommand_from why' -l show-values
complete -c eds -n '__fish_seen_subcommand_from why' -l json
complete -c eds -n '__fish_seen_subcommand_from why' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from why' -l verbose
complete -c eds -n '__fish_seen_subcommand_from why' -l silent
complete -c eds -n '__fish_seen_subcommand_from why' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from why' -l log-format
complete -c eds -n '__fish_seen_subcommand_from why' -l log-level
complete -c eds -n '__fish_seen_subcommand_from why' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from why' -l help
complete -c eds -n '__fish_seen_subcommand_from doctor' -l url
complete -c eds -n '__fish_seen_subcommand_from doctor' -l url-file
complete -c eds -n '__fish_seen_subcommand_from doctor' -l schema
complete -c eds -n '__fish_seen_subcommand_from doctor' -l api-url
complete -c eds -n '__fish_seen_subcommand_from doctor' -l tables
complete -c eds -n '__fish_seen_subcommand_from doctor' -l adopt
complete -c eds -n '__fish_seen_subcommand_from doctor' -l adopt-checkpoint
complete -c eds -n '__fish_seen_subcommand_from doctor' -l min-pending-latency
complete -c eds -n '__fish_seen_subcommand_from doctor' -l max-pending-latency
complete -c eds -n '__fish_seen_subcommand_from doctor' -l restart
complete -c eds -n '__fish_seen_subcommand_from doctor' -l schema-change
complete -c eds -n '__fish_seen_subcommand_from doctor' -l on-rejected
complete -c eds -n '__fish_seen_subcommand_from doctor' -l dead-letters-full
complete -c eds -n '__fish_seen_subcommand_from doctor' -l exclude
complete -c eds -n '__fish_seen_subcommand_from doctor' -l hash
complete -c eds -n '__fish_seen_subcommand_from doctor' -l hash-key-file
complete -c eds -n '__fish_seen_subcommand_from doctor' -l types
complete -c eds -n '__fish_seen_subcommand_from doctor' -l deletes
complete -c eds -n '__fish_seen_subcommand_from doctor' -l add-columns
complete -c eds -n '__fish_seen_subcommand_from doctor' -l server
complete -c eds -n '__fish_seen_subcommand_from doctor' -l nats-ca
complete -c eds -n '__fish_seen_subcommand_from doctor' -l port
complete -c eds -n '__fish_seen_subcommand_from doctor' -l bind
complete -c eds -n '__fish_seen_subcommand_from doctor' -l ui-token-file
complete -c eds -n '__fish_seen_subcommand_from doctor' -l webhook
complete -c eds -n '__fish_seen_subcommand_from doctor' -l stop-timeout
complete -c eds -n '__fish_seen_subcommand_from doctor' -l ack
complete -c eds -n '__fish_seen_subcommand_from doctor' -l consumer-suffix
complete -c eds -n '__fish_seen_subcommand_from doctor' -l company-ids
complete -c eds -n '__fish_seen_subcommand_from doctor' -l creds
complete -c eds -n '__fish_seen_subcommand_from doctor' -l api-key
complete -c eds -n '__fish_seen_subcommand_from doctor' -l release-url
complete -c eds -n '__fish_seen_subcommand_from doctor' -l release-key
complete -c eds -n '__fish_seen_subcommand_from doctor' -l check
complete -c eds -n '__fish_seen_subcommand_from doctor' -l deep
complete -c eds -n '__fish_seen_subcommand_from doctor' -l json
complete -c eds -n '__fish_seen_subcommand_from doctor' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from doctor' -l verbose
complete -c eds -n '__fish_seen_subcommand_from doctor' -l silent
complete -c eds -n '__fish_seen_subcommand_from doctor' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from doctor' -l log-format
complete -c eds -n '__fish_seen_subcommand_from doctor' -l log-level
complete -c eds -n '__fish_seen_subcommand_from doctor' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from doctor' -l help
complete -c eds -n '__fish_seen_subcommand_from health' -l ready
complete -c eds -n '__fish_seen_subcommand_from health' -l port
complete -c eds -n '__fish_seen_subcommand_from health' -l bind
complete -c eds -n '__fish_seen_subcommand_from health' -l json
complete -c eds -n '__fish_seen_subcommand_from health' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from health' -l verbose
complete -c eds -n '__fish_seen_subcommand_from health' -l silent
complete -c eds -n '__fish_seen_subcommand_from health' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from health' -l log-format
complete -c eds -n '__fish_seen_subcommand_from health' -l log-level
complete -c eds -n '__fish_seen_subcommand_from health' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from health' -l help
complete -c eds -n '__fish_seen_subcommand_from top' -l once
complete -c eds -n '__fish_seen_subcommand_from top' -l port
complete -c eds -n '__fish_seen_subcommand_from top' -l bind
complete -c eds -n '__fish_seen_subcommand_from top' -l json
complete -c eds -n '__fish_seen_subcommand_from top' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from top' -l verbose
complete -c eds -n '__fish_seen_subcommand_from top' -l silent
complete -c eds -n '__fish_seen_subcommand_from top' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from top' -l log-format
complete -c eds -n '__fish_seen_subcommand_from top' -l log-level
complete -c eds -n '__fish_seen_subcommand_from top' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from top' -l help
complete -c eds -n '__fish_seen_subcommand_from drivers' -l json
complete -c eds -n '__fish_seen_subcommand_from drivers' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from drivers' -l verbose
complete -c eds -n '__fish_seen_subcommand_from drivers' -l silent
complete -c eds -n '__fish_seen_subcommand_from drivers' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from drivers' -l log-format
complete -c eds -n '__fish_seen_subcommand_from drivers' -l log-level
complete -c eds -n '__fish_seen_subcommand_from drivers' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from drivers' -l help
complete -c eds -n '__fish_seen_subcommand_from state; and not __fish_seen_subcommand_from list get help' -a list
complete -c eds -n '__fish_seen_subcommand_from state; and not __fish_seen_subcommand_from list get help' -a get
complete -c eds -n '__fish_seen_subcommand_from state; and not __fish_seen_subcommand_from list get help' -a help
complete -c eds -n '__fish_seen_subcommand_from state; and not __fish_seen_subcommand_from list get help' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from state; and not __fish_seen_subcommand_from list get help' -l verbose
complete -c eds -n '__fish_seen_subcommand_from state; and not __fish_seen_subcommand_from list get help' -l silent
complete -c eds -n '__fish_seen_subcommand_from state; and not __fish_seen_subcommand_from list get help' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from state; and not __fish_seen_subcommand_from list get help' -l log-format
complete -c eds -n '__fish_seen_subcommand_from state; and not __fish_seen_subcommand_from list get help' -l log-level
complete -c eds -n '__fish_seen_subcommand_from state; and not __fish_seen_subcommand_from list get help' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from state; and not __fish_seen_subcommand_from list get help' -l help
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from list' -l json
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from list' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from list' -l verbose
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from list' -l silent
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from list' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from list' -l log-format
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from list' -l log-level
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from list' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from list' -l help
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from get' -l json
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from get' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from get' -l verbose
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from get' -l silent
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from get' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from get' -l log-format
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from get' -l log-level
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from get' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from get' -l help
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from help; and not __fish_seen_subcommand_from list get help' -a list
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from help; and not __fish_seen_subcommand_from list get help' -a get
complete -c eds -n '__fish_seen_subcommand_from state; and __fish_seen_subcommand_from help; and not __fish_seen_subcommand_from list get help' -a help
complete -c eds -n '__fish_seen_subcommand_from config; and not __fish_seen_subcommand_from show help' -a show
complete -c eds -n '__fish_seen_subcommand_from config; and not __fish_seen_subcommand_from show help' -a help
complete -c eds -n '__fish_seen_subcommand_from config; and not __fish_seen_subcommand_from show help' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from config; and not __fish_seen_subcommand_from show help' -l verbose
complete -c eds -n '__fish_seen_subcommand_from config; and not __fish_seen_subcommand_from show help' -l silent
complete -c eds -n '__fish_seen_subcommand_from config; and not __fish_seen_subcommand_from show help' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from config; and not __fish_seen_subcommand_from show help' -l log-format
complete -c eds -n '__fish_seen_subcommand_from config; and not __fish_seen_subcommand_from show help' -l log-level
complete -c eds -n '__fish_seen_subcommand_from config; and not __fish_seen_subcommand_from show help' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from config; and not __fish_seen_subcommand_from show help' -l help
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l url
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l url-file
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l schema
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l api-url
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l tables
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l adopt
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l adopt-checkpoint
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l min-pending-latency
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l max-pending-latency
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l restart
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l schema-change
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l on-rejected
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l dead-letters-full
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l exclude
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l hash
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l hash-key-file
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l types
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l deletes
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l add-columns
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l server
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l nats-ca
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l port
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l bind
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l ui-token-file
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l webhook
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l stop-timeout
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l ack
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l consumer-suffix
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l company-ids
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l api-key
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l eds-id
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l keep-logs
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l release-url
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l release-key
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l self-update
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l allow-downgrade
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l json
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l verbose
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l silent
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l log-format
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l log-level
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' -l help
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from help; and not __fish_seen_subcommand_from show help' -a show
complete -c eds -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from help; and not __fish_seen_subcommand_from show help' -a help
complete -c eds -n '__fish_seen_subcommand_from consumer; and not __fish_seen_subcommand_from show hand-back help' -a show
complete -c eds -n '__fish_seen_subcommand_from consumer; and not __fish_seen_subcommand_from show hand-back help' -a hand-back
complete -c eds -n '__fish_seen_subcommand_from consumer; and not __fish_seen_subcommand_from show hand-back help' -a help
complete -c eds -n '__fish_seen_subcommand_from consumer; and not __fish_seen_subcommand_from show hand-back help' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from consumer; and not __fish_seen_subcommand_from show hand-back help' -l verbose
complete -c eds -n '__fish_seen_subcommand_from consumer; and not __fish_seen_subcommand_from show hand-back help' -l silent
complete -c eds -n '__fish_seen_subcommand_from consumer; and not __fish_seen_subcommand_from show hand-back help' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from consumer; and not __fish_seen_subcommand_from show hand-back help' -l log-format
complete -c eds -n '__fish_seen_subcommand_from consumer; and not __fish_seen_subcommand_from show hand-back help' -l log-level
complete -c eds -n '__fish_seen_subcommand_from consumer; and not __fish_seen_subcommand_from show hand-back help' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from consumer; and not __fish_seen_subcommand_from show hand-back help' -l help
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from show' -l server
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from show' -l creds
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from show' -l nats-ca
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from show' -l consumer-suffix
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from show' -l json
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from show' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from show' -l verbose
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from show' -l silent
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from show' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from show' -l log-format
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from show' -l log-level
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from show' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from show' -l help
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from hand-back' -l server
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from hand-back' -l creds
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from hand-back' -l nats-ca
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from hand-back' -l consumer-suffix
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from hand-back' -l json
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from hand-back' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from hand-back' -l verbose
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from hand-back' -l silent
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from hand-back' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from hand-back' -l log-format
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from hand-back' -l log-level
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from hand-back' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from hand-back' -l help
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from help; and not __fish_seen_subcommand_from show hand-back help' -a show
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from help; and not __fish_seen_subcommand_from show hand-back help' -a hand-back
complete -c eds -n '__fish_seen_subcommand_from consumer; and __fish_seen_subcommand_from help; and not __fish_seen_subcommand_from show hand-back help' -a help
complete -c eds -n '__fish_seen_subcommand_from download' -l release-url
complete -c eds -n '__fish_seen_subcommand_from download' -l release-key
complete -c eds -n '__fish_seen_subcommand_from download' -l json
complete -c eds -n '__fish_seen_subcommand_from download' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from download' -l verbose
complete -c eds -n '__fish_seen_subcommand_from download' -l silent
complete -c eds -n '__fish_seen_subcommand_from download' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from download' -l log-format
complete -c eds -n '__fish_seen_subcommand_from download' -l log-level
complete -c eds -n '__fish_seen_subcommand_from download' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from download' -l help
complete -c eds -n '__fish_seen_subcommand_from publickey' -l json
complete -c eds -n '__fish_seen_subcommand_from publickey' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from publickey' -l verbose
complete -c eds -n '__fish_seen_subcommand_from publickey' -l silent
complete -c eds -n '__fish_seen_subcommand_from publickey' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from publickey' -l log-format
complete -c eds -n '__fish_seen_subcommand_from publickey' -l log-level
complete -c eds -n '__fish_seen_subcommand_from publickey' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from publickey' -l help
complete -c eds -n '__fish_seen_subcommand_from completion' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from completion' -l verbose
complete -c eds -n '__fish_seen_subcommand_from completion' -l silent
complete -c eds -n '__fish_seen_subcommand_from completion' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from completion' -l log-format
complete -c eds -n '__fish_seen_subcommand_from completion' -l log-level
complete -c eds -n '__fish_seen_subcommand_from completion' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from completion' -l help
complete -c eds -n '__fish_seen_subcommand_from man' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from man' -l verbose
complete -c eds -n '__fish_seen_subcommand_from man' -l silent
complete -c eds -n '__fish_seen_subcommand_from man' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from man' -l log-format
complete -c eds -n '__fish_seen_subcommand_from man' -l log-level
complete -c eds -n '__fish_seen_subcommand_from man' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from man' -l help
complete -c eds -n '__fish_seen_subcommand_from explain' -l json
complete -c eds -n '__fish_seen_subcommand_from explain' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from explain' -l verbose
complete -c eds -n '__fish_seen_subcommand_from explain' -l silent
complete -c eds -n '__fish_seen_subcommand_from explain' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from explain' -l log-format
complete -c eds -n '__fish_seen_subcommand_from explain' -l log-level
complete -c eds -n '__fish_seen_subcommand_from explain' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from explain' -l help
complete -c eds -n '__fish_seen_subcommand_from version' -l json
complete -c eds -n '__fish_seen_subcommand_from version' -l data-dir
complete -c eds -n '__fish_seen_subcommand_from version' -l verbose
complete -c eds -n '__fish_seen_subcommand_from version' -l silent
complete -c eds -n '__fish_seen_subcommand_from version' -l timestamp
complete -c eds -n '__fish_seen_subcommand_from version' -l log-format
complete -c eds -n '__fish_seen_subcommand_from version' -l log-level
complete -c eds -n '__fish_seen_subcommand_from version' -l schema-validator
complete -c eds -n '__fish_seen_subcommand_from version' -l help
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a stream
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a enroll
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a server
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a import
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a verify
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a replay
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a demo
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a sandbox
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a dlq
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a why
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a doctor
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a health
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a top
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a drivers
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a state
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a config
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a consumer
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a download
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a publickey
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a completion
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a man
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a explain
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a version
complete -c eds -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from stream enroll server import verify replay demo sandbox dlq why doctor health top drivers state config consumer download publickey completion man explain version help' -a help
complete -c eds -n '__fish_seen_subcommand_from help; and __fish_seen_subcommand_from server; and not __fish_seen_subcommand_from help' -a help
complete -c eds -n '__fish_seen_subcommand_from help; and __fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export' -a list
complete -c eds -n '__fish_seen_subcommand_from help; and __fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export' -a show
complete -c eds -n '__fish_seen_subcommand_from help; and __fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export' -a retry
complete -c eds -n '__fish_seen_subcommand_from help; and __fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export' -a drop
complete -c eds -n '__fish_seen_subcommand_from help; and __fish_seen_subcommand_from dlq; and not __fish_seen_subcommand_from list show retry drop export' -a export
complete -c eds -n '__fish_seen_subcommand_from help; and __fish_seen_subcommand_from state; and not __fish_seen_subcommand_from list get' -a list
complete -c eds -n '__fish_seen_subcommand_from help; and __fish_seen_subcommand_from state; and not __fish_seen_subcommand_from list get' -a get
complete -c eds -n '__fish_seen_subcommand_from help; and __fish_seen_subcommand_from config; and not __fish_seen_subcommand_from show' -a show
complete -c eds -n '__fish_seen_subcommand_from help; and __fish_seen_subcommand_from consumer; and not __fish_seen_subcommand_from show hand-back' -a show
complete -c eds -n '__fish_seen_subcommand_from help; and __fish_seen_subcommand_from consumer; and not __fish_seen_subcommand_from show hand-back' -a hand-back
