use super::options::KEYS;
use super::*;
use syn::parse_quote;

fn expanded(input: &DeriveInput) -> String {
    let text = derive(input).to_string().replace(' ', "");
    assert!(!text.contains("compile_error"), "{text}");
    text
}

fn mistakes(input: &DeriveInput) -> Vec<String> {
    let mut errors = Errors::default();
    let entries = read(input, KEYS, &mut errors);
    attributes::private(&entries, &mut errors);
    check_shape(input, &mut errors);
    options::validate(input, &entries, &mut errors);

    match errors.finish() {
        Ok(()) => Vec::new(),
        Err(error) => error.into_iter().map(|error| error.to_string()).collect(),
    }
}

#[test]
fn an_event_is_named_after_its_type() {
    let text = expanded(&parse_quote!(
        struct UserCreated {
            user_id: i64,
        }
    ));
    assert!(
        text.contains("impl::ezq::__private::EventforUserCreated{"),
        "{text}"
    );
    assert!(
        text.contains(r#"TYPE:&'staticstr="UserCreated";"#),
        "{text}"
    );
    assert!(text.contains("VERSION:u32=1u32;"), "{text}");
    assert!(!text.contains("fnkey"), "{text}");

    let text = expanded(&parse_quote!(
        struct r#Match;
    ));
    assert!(text.contains(r#"TYPE:&'staticstr="Match";"#), "{text}");
}

#[test]
fn an_event_takes_what_the_attributes_say() {
    let text = expanded(&parse_quote! {
        #[event(type = "user.created", version = 2, crate = events)]
        #[event(queue = "orders", codec = "raw", key = user_id, alias = "UserCreated", alias = "NewUser")]
        struct UserCreated { user_id: i64 }
    });
    assert!(text.contains("implevents::__private::Event"), "{text}");
    assert!(text.contains(r#"="user.created";"#), "{text}");
    assert!(text.contains("VERSION:u32=2u32;"), "{text}");
    assert!(text.contains(r#"&["UserCreated","NewUser"]"#), "{text}");
    assert!(text.contains(r#"Some("orders")"#), "{text}");
    assert!(text.contains(r#"Some("raw")"#), "{text}");
    assert!(text.contains("__ezq_field=&self.user_id;"), "{text}");
}

#[test]
fn a_key_reaches_into_fields_and_tuples() {
    let text = expanded(&parse_quote! {
        #[event(key = "customer.id")] struct Paid { customer: Customer }
    });
    assert!(text.contains("__ezq_field=&self.customer;"), "{text}");
    assert!(text.contains("__ezq_field=&__ezq_inner.id;"), "{text}");

    let text = expanded(&parse_quote!(
        #[event(key = "0")]
        struct Paid(i64);
    ));
    assert!(text.contains("__ezq_field=&self.0;"), "{text}");

    let text = expanded(&parse_quote!(
        #[event(key = "type")]
        struct Paid {
            r#type: i64,
        }
    ));
    assert!(text.contains("__ezq_field=&self.r#type;"), "{text}");
}

#[test]
fn a_key_must_name_a_field() {
    assert_eq!(
        mistakes(&parse_quote!(
            #[event(key = buyer)]
            struct Paid {
                user_id: i64,
                sum: i64,
            }
        )),
        ["`Paid` has no field `buyer`: its fields are `user_id`, `sum`"]
    );

    assert_eq!(
        mistakes(&parse_quote!(
            #[event(key = "usr_id")]
            struct Paid {
                user_id: i64,
            }
        )),
        ["`Paid` has no field `usr_id`: did you mean `user_id`?"]
    );

    assert!(
        mistakes(&parse_quote!(
            #[event(key = "user id")]
            struct Paid {
                user_id: i64,
            }
        ))[0]
            .contains("write `key = \"customer_id\"`")
    );

    assert!(
        mistakes(&parse_quote!(
            #[event(key = id)]
            enum Paid {
                A { id: i64 },
            }
        ))[0]
            .contains("only a struct")
    );
}

#[test]
fn refuses_what_the_wire_or_the_queue_could_not_carry() {
    let first = |input: DeriveInput| mistakes(&input).remove(0);
    assert!(
        first(parse_quote!(
            #[event(type = "")]
            struct E;
        ))
        .contains("must not be empty")
    );
    assert!(
        first(parse_quote!(
            #[event(type = " a b")]
            struct E;
        ))
        .contains("white space")
    );
    assert!(
        first(parse_quote!(
            #[event(alias = "a\tb")]
            struct E;
        ))
        .contains("control")
    );
    assert!(
        first(parse_quote!(
            #[event(alias = "E")]
            struct E;
        ))
        .contains("own name")
    );
    assert!(
        first(parse_quote!(
            #[event(version = 0)]
            struct E;
        ))
        .contains("at least 1")
    );

    let long = "q".repeat(48);
    for queue in ["", "a b", "a--b", "a;b", "é", &long] {
        let message = first(parse_quote!(
            #[event(queue = #queue)]
            struct E;
        ));
        assert!(
            message.contains("is not a queue name"),
            "{queue}: {message}"
        );
    }
}

#[test]
fn refuses_generics_unions_and_misplaced_attributes() {
    assert!(
        mistakes(&parse_quote!(
            struct E<T>(T);
        ))[0]
            .contains("no generic parameters")
    );
    assert!(mistakes(&parse_quote!(union E { a: u8 }))[0].contains("union"));

    assert!(
        mistakes(&parse_quote!(
            struct E {
                #[event(key)]
                a: u8,
            }
        ))[0]
            .contains("whole type")
    );

    assert_eq!(
        mistakes(&parse_quote!(
            #[event]
            struct E;
        ))
        .len(),
        1
    );
}

#[test]
fn a_mistaken_event_is_an_event_still() {
    let text = derive(&parse_quote!(
        #[event(version = 0)]
        struct E;
    ))
    .to_string();
    assert!(
        text.contains("compile_error") && text.contains("Event for E"),
        "{text}"
    );
}
